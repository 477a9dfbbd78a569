//! `rootbeam pack` and `rootbeam inspect`, from a synthetic kernel to the bytes of the archive.

mod common;
#[path = "../../init/tests/common/needs.rs"]
mod needs;

use common::elf;
use rootbeam::pack::{Args, Compress, Preset};
use rootbeam::term::Term;
use rootbeam_init::trust::KeyId;
use rootbeam_initramfs::inspect::{Key, Report};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    needs::run(needs::tests! {
        openssl =>
            the_archive_holds_exactly_what_init_expects,
            threshold_and_floor_are_packed_and_shown,
            presets_take_what_they_promise,
            the_same_inputs_give_the_same_bytes,
            microcode_comes_first_and_is_not_compressed,
            refuses_a_kernel_that_cannot_boot_an_image_unless_told,
            warns_of_a_compressor_that_the_kernels_squashfs_was_built_without,
            refuses_a_compression_that_the_kernel_cannot_unpack,
            refuses_programs_keys_and_certificates_that_init_could_not_use;
        certificates =>
            the_systems_certificates_are_copied_where_they_are_asked_for;
    })
}

/// For certificates of one's own.
fn openssl() -> Option<String> {
    needs::programs(&["openssl"])
}

/// For those of the system too.
fn certificates() -> Option<String> {
    openssl().or_else(|| (!Path::new(SYSTEM).exists()).then(|| format!("it needs {SYSTEM}")))
}

const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

const KEY: &str =
    "untrusted comment: minisign public key 1\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";

const OTHER_KEY: &str =
    "untrusted comment: minisign public key 2\nRWQ/EDVLQA4LTn/ucE7kWG1ZWIcEHA8YvRHiQNu9AoFOfYfrgNQEqBA1\n";

/// A root with kernel 6.1 as Debian's package has it: unpacked, without depmod's files.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        let module = |path: &str, fields: &[&str]| {
            let fields = [fields, &["vermagic=6.1 SMP mod_unload "]].concat();
            root.file(&format!("lib/modules/6.1/kernel/{path}"), &elf(1, Some(&fields)));
        };
        module("drivers/block/loop.ko", &[]);
        module("fs/squashfs/squashfs.ko", &["alias=fs-squashfs"]);
        module("fs/overlayfs/overlay.ko", &["alias=fs-overlay"]);
        module("fs/erofs/erofs.ko", &["alias=fs-erofs"]);
        module("drivers/virtio/virtio.ko", &[]);
        module("drivers/virtio/virtio_pci.ko", &["depends=virtio", "alias=pci:v00001AF4d*sv*sd*bc*sc*i*"]);
        module("drivers/net/ethernet/broadcom/tg3.ko", &["firmware=tigon/tg3.bin", "softdep=pre: nothing"]);
        module("drivers/net/wireless/ath.ko", &[]);
        root.file("lib/modules/6.1/modules.builtin", b"kernel/net/packet/af_packet.ko\nkernel/fs/fuse/fuse.ko\n");
        root.file("boot/config-6.1", b"CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n# CONFIG_RD_XZ is not set\n");
        root.file("lib/firmware/tigon/tg3.bin", b"firmware");
        root.file("in/init", &elf(1, None));
        root.file("in/web.pub", KEY.as_bytes());
        root.file(
            "in/config",
            b"# here\nrootbeam.image=http://10.0.2.2/web.squashfs quiet rootbeam.header=X-Key:s3cret\n",
        );
        root.file("in/token", b"s3cret-token\n");
        let certificates = root.path("tls");
        fs::create_dir_all(&certificates).unwrap();
        // As the tests of https have them.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../init/tests/certificates");
        assert!(Command::new(script).arg(certificates).status().unwrap().success(), "openssl makes certificates");
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn file(&self, path: &str, data: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    fn args(&self, output: &str) -> Args {
        Args {
            modules: self.0.path().to_owned(),
            kernel_release: None,
            preset: Preset::Generic,
            include_module: vec![],
            key: vec![],
            key_threshold: None,
            min_version: None,
            ca: vec![],
            client_cert: None,
            client_key: None,
            token: None,
            config: None,
            microcode: None,
            shell: None,
            compress: Compress::Zstd,
            init: Some(self.path("in/init")),
            allow_missing: false,
            output: self.path(output),
        }
    }

    /// The error of packing so; nothing may have been written.
    fn refusal(&self, change: impl FnOnce(&mut Args)) -> String {
        let mut args = self.args("refused");
        change(&mut args);
        let error = format!("{:#}", run(args).expect_err("it is refused"));
        assert!(!self.path("refused").exists(), "nothing is written");
        error.replace(self.0.path().to_str().unwrap(), "ROOT")
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    rootbeam::pack::run(args, &Term::detect(false))
}

fn report(path: &Path) -> Report {
    Report::of(&fs::read(path).unwrap()).unwrap()
}

fn the_archive_holds_exactly_what_init_expects() {
    let root = Root::new();
    run(Args {
        key: vec![root.path("in/web.pub")],
        ca: vec![root.path("tls/root.pem"), root.path("tls/other.pem")],
        client_cert: Some(root.path("tls/client.pem")),
        client_key: Some(root.path("tls/client.key")),
        token: Some(root.path("in/token")),
        config: Some(root.path("in/config")),
        shell: Some(Some(root.path("in/init"))),
        ..root.args("initrd")
    })
    .unwrap();
    let report = report(&root.path("initrd"));
    let list: Vec<String> = report
        .contents
        .iter()
        .map(|item| {
            let target = item.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
            let device = item.device.map(|(major, minor)| format!(" {major}:{minor}")).unwrap_or_default();
            format!("{} {}{target}{device}", item.mode, item.path)
        })
        .collect();
    let modules = "lib/modules/6.1/kernel";
    let expected = [
        "drwxr-xr-x bin",
        "-rwxr-xr-x bin/busybox",
        "lrwxrwxrwx bin/sh -> busybox",
        "drwxr-xr-x dev",
        "crw------- dev/console 5:1",
        "crw-rw-rw- dev/null 1:3",
        "drwxr-xr-x etc",
        "-rw-r--r-- etc/initrd-release",
        "drwxr-xr-x etc/rootbeam",
        "-rw-r--r-- etc/rootbeam/build-time",
        "-rw-r--r-- etc/rootbeam/ca.pem",
        "-rw------- etc/rootbeam/client.key",
        "-rw-r--r-- etc/rootbeam/client.pem",
        "-rw-r--r-- etc/rootbeam/config",
        "drwxr-xr-x etc/rootbeam/keys",
        "-rw-r--r-- etc/rootbeam/keys/web.pub",
        "-rw------- etc/rootbeam/token",
        "-rwxr-xr-x init",
        "drwxr-xr-x lib",
        "drwxr-xr-x lib/firmware",
        "drwxr-xr-x lib/firmware/tigon",
        "-rw-r--r-- lib/firmware/tigon/tg3.bin",
        "drwxr-xr-x lib/modules",
        "drwxr-xr-x lib/modules/6.1",
        &format!("drwxr-xr-x {modules}"),
        &format!("drwxr-xr-x {modules}/drivers"),
        &format!("drwxr-xr-x {modules}/drivers/block"),
        &format!("-rw-r--r-- {modules}/drivers/block/loop.ko"),
        &format!("drwxr-xr-x {modules}/drivers/net"),
        &format!("drwxr-xr-x {modules}/drivers/net/ethernet"),
        &format!("drwxr-xr-x {modules}/drivers/net/ethernet/broadcom"),
        &format!("-rw-r--r-- {modules}/drivers/net/ethernet/broadcom/tg3.ko"),
        &format!("drwxr-xr-x {modules}/drivers/virtio"),
        &format!("-rw-r--r-- {modules}/drivers/virtio/virtio.ko"),
        &format!("-rw-r--r-- {modules}/drivers/virtio/virtio_pci.ko"),
        &format!("drwxr-xr-x {modules}/fs"),
        &format!("drwxr-xr-x {modules}/fs/erofs"),
        &format!("-rw-r--r-- {modules}/fs/erofs/erofs.ko"),
        &format!("drwxr-xr-x {modules}/fs/overlayfs"),
        &format!("-rw-r--r-- {modules}/fs/overlayfs/overlay.ko"),
        &format!("drwxr-xr-x {modules}/fs/squashfs"),
        &format!("-rw-r--r-- {modules}/fs/squashfs/squashfs.ko"),
        "-rw-r--r-- lib/modules/6.1/modules.alias",
        "-rw-r--r-- lib/modules/6.1/modules.builtin",
        "-rw-r--r-- lib/modules/6.1/modules.builtin.modinfo",
        "-rw-r--r-- lib/modules/6.1/modules.dep",
        "-rw-r--r-- lib/modules/6.1/modules.softdep",
        "drwxr-xr-x proc",
        "drwxr-xr-x run",
        "drwxr-xr-x sbin",
        "lrwxrwxrwx sbin/modprobe -> /init",
        "drwxr-xr-x sys",
        "drwxr-xr-x usr",
        "drwxr-xr-x usr/bin",
        "lrwxrwxrwx usr/bin/modprobe -> /init",
        "drwxr-xr-x usr/sbin",
        "lrwxrwxrwx usr/sbin/modprobe -> /init",
    ];
    assert_eq!(list, expected);
    assert_eq!(report.kernels, ["6.1"]);
    assert_eq!(report.settings, ["rootbeam.image=http://10.0.2.2/web.squashfs quiet rootbeam.header=***"]);
    let key = KEY.lines().nth(1).unwrap().to_owned();
    let id = Some(KeyId(0xE762_0F18_42B4_E81F));
    assert_eq!(report.keys, [Key { name: "web.pub".into(), id, key }]);
    assert_eq!((report.key_threshold, report.min_version), (None, None));
    assert_eq!((report.certificates, report.client_certificate, report.token, report.shell), (2, true, true, true));
    let shown = rootbeam::inspect::render(&report) + &serde_json::to_string(&report).unwrap();
    assert!(!shown.contains("s3cret") && !shown.contains("PRIVATE"), "{shown}");
    assert!(report.name.unwrap().starts_with("rootbeam initramfs "));
}

fn threshold_and_floor_are_packed_and_shown() {
    let root = Root::new();
    root.file("in/bob.pub", OTHER_KEY.as_bytes());
    let key = vec![root.path("in/web.pub"), root.path("in/bob.pub")];
    run(Args { key, key_threshold: Some(2), min_version: Some(40), ..root.args("initrd") }).unwrap();
    let report = report(&root.path("initrd"));
    assert_eq!((report.key_threshold, report.min_version), (Some(2), Some(40)));
    let shown = rootbeam::inspect::render(&report);
    for line in [
        "key          bob.pub 4E0B0E404B35103F RWQ/EDVLQA4LTn/ucE7kWG1ZWIcEHA8YvRHiQNu9AoFOfYfrgNQEqBA1",
        "key          web.pub E7620F1842B4E81F RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
        "signatures   2 of these 2 keys must have signed a manifest",
        "min version  manifests below version 40 do not boot",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

fn presets_take_what_they_promise() {
    let root = Root::new();
    let modules = |preset, include: &[&str]| {
        let include_module = include.iter().map(|name| (*name).to_owned()).collect();
        run(Args { preset, include_module, ..root.args("initrd") }).unwrap();
        let paths = report(&root.path("initrd")).contents.into_iter().map(|item| item.path);
        let names = paths.filter_map(|path| Some(path.strip_suffix(".ko")?.rsplit('/').next()?.to_owned()));
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(modules(Preset::Qemu, &[]), "loop virtio virtio_pci erofs overlay squashfs");
    assert_eq!(modules(Preset::Generic, &[]), "loop tg3 virtio virtio_pci erofs overlay squashfs");
    assert_eq!(modules(Preset::Qemu, &["ath"]), "loop ath virtio virtio_pci erofs overlay squashfs");
}

fn the_same_inputs_give_the_same_bytes() {
    let root = Root::new();
    for compress in [Compress::Zstd, Compress::Gzip, Compress::None] {
        run(Args { compress, ..root.args("one") }).unwrap();
        run(Args { compress, ..root.args("two") }).unwrap();
        assert!(fs::read(root.path("one")).unwrap() == fs::read(root.path("two")).unwrap(), "{compress:?}");
    }
}

fn microcode_comes_first_and_is_not_compressed() {
    let root = Root::new();
    root.file("in/ucode", b"DMA\0 microcode");
    run(Args { microcode: Some(root.path("in/ucode")), ..root.args("initrd") }).unwrap();
    let bytes = fs::read(root.path("initrd")).unwrap();
    assert!(bytes.starts_with(b"070701"));
    let report = Report::of(&bytes).unwrap();
    let kinds: Vec<String> = report.archives.iter().map(|part| part.compression.to_string()).collect();
    assert_eq!(kinds, ["none", "zstd"]);
    assert!(report.contents.iter().any(|item| item.path == "kernel/x86/microcode/AuthenticAMD.bin"));
}

fn refuses_a_kernel_that_cannot_boot_an_image_unless_told() {
    let root = Root::new();
    fs::remove_dir_all(root.path("lib/modules/6.1/kernel/fs/squashfs")).unwrap();
    assert_eq!(
        root.refusal(|_| ()),
        "kernel 6.1: the kernel has no squashfs (CONFIG_SQUASHFS): no squashfs image can be mounted. Take a kernel \
         that has CONFIG_SQUASHFS, or the complete folder of its modules; --allow-missing packs all the same"
    );
    run(Args { allow_missing: true, ..root.args("initrd") }).unwrap();
}

fn warns_of_a_compressor_that_the_kernels_squashfs_was_built_without() {
    let root = Root::new();
    let warnings = |config: &str| {
        root.file("boot/config-6.1", format!("CONFIG_RD_ZSTD=y\n{config}").as_bytes());
        let mut command = common::rootbeam();
        command.args(["pack", "--modules"]).arg(root.0.path()).arg("--init").arg(root.path("in/init"));
        let (_, said) = common::succeed(command.arg("-o").arg(root.path("initrd")));
        said.lines().filter(|line| line.starts_with("warning: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let all = "CONFIG_SQUASHFS=m\nCONFIG_SQUASHFS_ZLIB=y\nCONFIG_SQUASHFS_XZ=y\nCONFIG_SQUASHFS_ZSTD=y\n";
    assert_eq!(warnings(all), [""; 0]);
    assert_eq!(warnings(""), [""; 0], "this config tells nothing of squashfs");
    assert_eq!(
        warnings(&all.replace("CONFIG_SQUASHFS_ZSTD=y", "# CONFIG_SQUASHFS_ZSTD is not set")),
        ["warning: the kernel has no squashfs with zstd (CONFIG_SQUASHFS_ZSTD): images compressed by it cannot be \
          mounted, so build them with another --compress"]
    );
}

fn refuses_a_compression_that_the_kernel_cannot_unpack() {
    let root = Root::new();
    assert_eq!(
        root.refusal(|args| args.compress = Compress::Xz),
        "kernel 6.1 cannot unpack an initramfs compressed by xz (CONFIG_RD_XZ is not set): take --compress zstd"
    );
}

fn refuses_programs_keys_and_certificates_that_init_could_not_use() {
    let root = Root::new();
    root.file("in/script", b"#!/bin/sh\n");
    root.file("in/dynamic", &elf(3, None));
    root.file("in/text", b"hello\n");
    root.file("in/same.pub", KEY.as_bytes());
    root.file("in/misspelt", b"rootbeam.verify=yes\n");
    root.file("in/lines", b"hello\nworld\n");
    root.file("in/empty.pem", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
    root.file("in/locked.key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH=\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let identity = |args: &mut Args, certificate: &str, key: &str| {
        (args.client_cert, args.client_key) = (Some(root.path(certificate)), Some(root.path(key)));
    };
    for (error, expected) in [
        (
            root.refusal(|a| a.init = Some(root.path("in/script"))),
            "the init program cannot be packed: it is not an ELF",
        ),
        (root.refusal(|a| a.init = Some(root.path("in/gone"))), "ROOT/in/gone: No such file or directory"),
        (
            root.refusal(|a| a.shell = Some(Some(root.path("in/dynamic")))),
            "the shell cannot be packed: it is linked dynamically",
        ),
        (root.refusal(|a| a.key = vec![root.path("in/text")]), "text is not a public minisign key"),
        (root.refusal(|a| a.key = vec![root.path("in/web.pub"); 2]), "two keys have the file name web.pub"),
        (
            root.refusal(|a| a.key = vec![root.path("in/web.pub"), root.path("in/same.pub")]),
            "web.pub and same.pub are the same key: it counts once",
        ),
        (
            root.refusal(|a| (a.key, a.key_threshold) = (vec![root.path("in/web.pub")], Some(2))),
            "the threshold is 2, and must be from 1 to the number of keys, which is 1",
        ),
        (
            root.refusal(|a| a.config = Some(root.path("in/misspelt"))),
            "--config: rootbeam.verify=yes: its value must be require or default; nothing would boot with it",
        ),
        (root.refusal(|a| a.min_version = Some(2)), "a least version means nothing without a key"),
        (
            root.refusal(|a| a.ca = vec![root.path("in/text")]),
            "the CA file ROOT/in/text holds no certificate in PEM form",
        ),
        (
            root.refusal(|a| a.ca = vec![root.path("tls/root.pem"), root.path("in/empty.pem")]),
            "the CA file ROOT/in/empty.pem holds a certificate that cannot be read",
        ),
        (
            root.refusal(|a| identity(a, "tls/client.pem", "tls/server.key")),
            "the client's key file holds the key of another certificate",
        ),
        (
            root.refusal(|a| identity(a, "tls/client.key", "tls/client.key")),
            "the client's certificate file holds no certificate in PEM form",
        ),
        (
            root.refusal(|a| identity(a, "tls/client.pem", "in/locked.key")),
            "the client's key file holds no private key in PEM form without a password",
        ),
        (
            root.refusal(|a| a.client_cert = Some(root.path("tls/client.pem"))),
            "--client-cert and --client-key go together",
        ),
        (
            root.refusal(|a| a.token = Some(root.path("in/lines"))),
            "the token file must hold one line of printing ASCII",
        ),
        (root.refusal(|a| a.microcode = Some(root.path("in/text"))), "ROOT/in/text: it is neither an uncompressed"),
        (root.refusal(|a| a.include_module = vec!["e1000".into()]), "--include-module: kernel 6.1 has no module e1000"),
        (root.refusal(|a| a.modules = root.path("in")), "ROOT/in holds no kernel modules: give /lib/modules/RELEASE"),
        (root.refusal(|a| a.kernel_release = Some("6.12".into())), "ROOT holds no modules of kernel 6.12; it has 6.1"),
    ] {
        assert!(error.starts_with(expected), "{error:?} does not begin with {expected:?}");
    }
}

fn the_systems_certificates_are_copied_where_they_are_asked_for() {
    let root = Root::new();
    run(Args { ca: vec!["system".into(), root.path("tls/root.pem")], ..root.args("initrd") }).unwrap();
    let theirs = fs::read_to_string(SYSTEM).unwrap().matches("-----BEGIN CERTIFICATE-----").count();
    assert_eq!(report(&root.path("initrd")).certificates, theirs + 1);
}
