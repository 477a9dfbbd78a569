//! What init expects of the archive it runs from. The packer builds by these definitions and the tools read them,
//! so the two cannot drift.

/// A device node of the archive: path, permission bits, major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Path in the archive, without a leading slash.
    pub path: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Major device number.
    pub major: u32,
    /// Minor device number.
    pub minor: u32,
}

/// Character devices that must exist before devtmpfs is mounted: the kernel opens /dev/console for descriptors
/// 0 to 2 before it starts /init, and Rust's runtime aborts where it cannot open /dev/null.
pub const NODES: [Node; 2] = [
    Node { path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    Node { path: "dev/null", mode: 0o666, major: 1, minor: 3 },
];

/// Empty directories of the archive.
pub const DIRECTORIES: [&str; 9] = ["dev", "etc", "etc/rootbeam", "lib", "lib/modules", "proc", "run", "sbin", "sys"];

/// The program that the kernel starts, and that answers its requests of modules under the names [`MODPROBE`].
pub const INIT: &str = "init";
/// Symbolic links to [`INIT`]: what stock kernels have as CONFIG_MODPROBE_PATH. It is the first almost everywhere, the
/// second in Fedora and RHEL, and the third where `/usr/sbin` has been merged into `/usr/bin`.
pub const MODPROBE: [&str; 3] = ["sbin/modprobe", "usr/sbin/modprobe", "usr/bin/modprobe"];
/// An os-release file; its presence is what marks an initrd for systemd and others.
pub const INITRD_RELEASE: &str = "etc/initrd-release";
/// Command-line words packed with the archive, one or more a line, `#` to the end of the line is a comment.
/// Words of the real command line come after them, so they win.
pub const CONFIG: &str = "etc/rootbeam/config";
/// Public minisign keys, one file each. Where there is one, only manifests that are signed count.
pub const KEYS: &str = "etc/rootbeam/keys";
/// How many of the keys must have signed a manifest, decimal; 1 where the file is missing.
pub const KEY_THRESHOLD: &str = "etc/rootbeam/key-threshold";
/// The least version of a manifest that is booted, decimal; any where the file is missing.
pub const MIN_VERSION: &str = "etc/rootbeam/min-version";
/// Trusted root certificates for https, PEM.
pub const CA: &str = "etc/rootbeam/ca.pem";
/// The certificate that this machine shows to https servers, and what leads to its root, PEM.
pub const CLIENT_CERTIFICATE: &str = "etc/rootbeam/client.pem";
/// Its private key, PEM; for root alone.
pub const CLIENT_KEY: &str = "etc/rootbeam/client.key";
/// A bearer token for the servers of the image, one line; for root alone.
pub const TOKEN: &str = "etc/rootbeam/token";
/// Time servers of the lease, an address a line: written during the boot, not packed.
pub const TIME_SERVERS: &str = "etc/rootbeam/time-servers";
/// What the C library's resolver reads: written during the boot, and anew with each lease, not packed.
pub const RESOLVER: &str = "etc/resolv.conf";
/// A statically linked busybox; there only where the packer was told `--shell`.
pub const SHELL: &str = "bin/busybox";
/// Build time of the archive in seconds since 1970, decimal: the wall clock is raised to it.
pub const BUILD_TIME: &str = "etc/rootbeam/build-time";

/// Where the modules of kernel `release` lie, without a leading slash.
pub fn modules_dir(release: &str) -> String {
    format!("lib/modules/{release}")
}

/// Modules that a boot may need whatever the hardware: filesystems, loop, packet sockets for DHCP. A kernel that
/// has them built in lists them in `modules.builtin`.
pub const CORE_MODULES: [&str; 6] = ["loop", "squashfs", "erofs", "overlay", "fuse", "af_packet"];

/// `argv[0]` of the workers. The leading `@` tells systemd's killing spree to spare them.
pub mod role {
    /// Links and addresses.
    pub const NET: &str = "@rootbeam-net";
    /// The image in memory and its verification.
    pub const STORE: &str = "@rootbeam-store";
    /// HTTP.
    pub const FETCH: &str = "@rootbeam-fetch";
    /// What is left of PID 1 while an image is streamed.
    pub const KEEPER: &str = "@rootbeam-keeper";
}

/// Descriptors that a worker inherits beyond 0 to 2.
pub mod fd {
    /// The worker's SEQPACKET channel to PID 1 (net and store).
    pub const CHANNEL: i32 = 3;
    /// The fetch worker's SEQPACKET channel to the store.
    pub const STORE_CHANNEL: i32 = 3;
    /// The image memfd (store only).
    pub const IMAGE: i32 = 4;
    /// The staging ring's memfd (store and fetch).
    pub const RING: i32 = 5;
    /// Where the keeper hears what is left to it, and says that it has begun.
    pub const READY: i32 = 4;
    /// The net worker's channel (keeper only).
    pub const NET_CHANNEL: i32 = 6;
    /// This program, for the fetch workers to come (keeper only).
    pub const PROGRAM: i32 = 7;
    /// The workers' folder in /run (keeper only).
    pub const FOLDER: i32 = 8;
    /// `RESOLVER`, to be written (keeper only).
    pub const RESOLVER: i32 = 9;
    /// /run (keeper only).
    pub const RUN: i32 = 11;
    /// What restarts the machine (keeper only, where it is to).
    pub const RESTART: i32 = 10;
    /// What the keeper has of each image that is left to it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Left {
        /// The store's channel.
        pub store: i32,
        /// The ring between store and fetch.
        pub ring: i32,
        /// The fetch worker that runs, a pidfd; not always there.
        pub fetch: i32,
    }

    impl Left {
        /// Of the image at that place in the order of the leaving, from 0; there are at most nine.
        pub const fn at(place: i32) -> Self {
            let first = 12 + 3 * place;
            Self { store: first, ring: first + 1, fetch: first + 2 }
        }
    }
}

/// Name of the file that the store serves while it streams.
pub const STREAM_FILE: &str = "image";

/// How many requests run at once at the most, each in a lane of the staging ring.
pub const LANES: usize = 8;
/// Size of one lane, in bytes: it bridges two milliseconds of the store's absence at 1 GB/s, and stays in a cache.
pub const LANE_BYTES: usize = 2 << 20;
/// Size of the staging ring between fetch and store, in bytes: the lanes one behind another.
pub const RING_BYTES: usize = LANES * LANE_BYTES;
