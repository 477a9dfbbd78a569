//! `rootbeam pack`: makes the initramfs.

use crate::output;
use crate::term::{Bytes, Term};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rootbeam_init::access::certificates::Identity;
use rootbeam_init::modules::devices::Devices;
use rootbeam_init::settings::{Settings, check_words};
use rootbeam_initramfs::assembly::{self, Named, Parts};
use rootbeam_initramfs::closure::{Closure, Collector};
use rootbeam_initramfs::compress::Packing;
use rootbeam_initramfs::firmware::Firmware;
use rootbeam_initramfs::inspect::Report;
use rootbeam_initramfs::kernel::{Kernel, Support};
use rootbeam_initramfs::microcode::early_archive;
use rootbeam_initramfs::preset::{self, lacks};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Make the initramfs that boots a machine into RAM
///
/// It holds rootbeam's init, the drivers of one kernel and what you want to trust. No root is needed, and the same
/// inputs give the same bytes (SOURCE_DATE_EPOCH is honoured).
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rootbeam pack --modules /lib/modules/$(uname -r) -o initrd.img
      for any machine with wired Ethernet, with this machine's kernel
  rootbeam pack --modules rootfs --preset qemu --key web.pub -o initrd.img
      for QEMU, with the kernel in the tree rootfs; only images signed with web.pub will boot
  rootbeam pack --modules rootfs --key ann.pub --key bob.pub --key eve.pub --key-threshold 2 --min-version 40 -o initrd.img
      only images that two of the three signed, of version 40 or newer

`rootbeam keygen` makes keys, `rootbeam sign` signs manifests; minisign's own work too. No option on the kernel command
line can loosen what is packed here.

Exit codes: 0 made, 1 refused or failed (nothing is written), 2 wrong usage")]
pub struct Args {
    /// The kernel's modules: /lib/modules/RELEASE, or a root that has lib/modules/RELEASE
    #[arg(long, value_name = "DIR")]
    pub modules: PathBuf,
    /// Which kernel, where DIR has several
    #[arg(long, value_name = "RELEASE")]
    pub kernel_release: Option<String>,
    /// For which machines
    #[arg(long, value_enum, default_value_t = Preset::Generic)]
    pub preset: Preset,
    /// A further module, with all it needs; may be repeated
    #[arg(long, value_name = "NAME")]
    pub include_module: Vec<String>,
    /// A public minisign key; only images signed by one of the packed keys will boot; may be repeated
    #[arg(long, value_name = "PUB")]
    pub key: Vec<PathBuf>,
    /// How many of the packed keys must have signed an image (default: any one of them)
    #[arg(long, value_name = "N", requires = "key")]
    pub key_threshold: Option<u8>,
    /// The least version of a manifest that will boot, so that no old image comes back under its old signature
    #[arg(long, value_name = "N", requires = "key")]
    pub min_version: Option<u64>,
    /// Root certificates to trust for https; `system` takes this machine's own; may be repeated
    #[arg(long, value_name = "PEM|system")]
    pub ca: Vec<PathBuf>,
    /// A certificate to show to https servers that ask for one, with those that lead to its root
    #[arg(long, value_name = "PEM", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Its private key, without a password
    #[arg(long, value_name = "PEM", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// A token that the image's servers ask for (Authorization: Bearer), a line in a file
    #[arg(long, value_name = "FILE")]
    pub token: Option<PathBuf>,
    /// Words to put before the kernel command line: rootbeam.image=URL and others, one or more a line
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Processor microcode to load early: a distribution's microcode archive, or plain Intel or AMD microcode
    #[arg(long, value_name = "FILE")]
    pub microcode: Option<PathBuf>,
    /// Pack a shell, for rootbeam.on-failure=shell: a static busybox (default: this machine's)
    #[arg(long, value_name = "BUSYBOX", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "an option that may be given without its value")]
    pub shell: Option<Option<PathBuf>>,
    /// How to compress
    #[arg(long, value_enum, default_value_t = Compress::Zstd)]
    pub compress: Compress,
    /// rootbeam's init (default: the file `init` beside this program)
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Pack even if the kernel lacks what a boot needs
    #[arg(long)]
    pub allow_missing: bool,
    /// Where to write the initramfs
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// For which machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// QEMU and KVM: virtio, e1000, e1000e
    Qemu,
    /// Any machine with wired Ethernet, hypervisors and USB adapters included
    Generic,
    /// This machine's devices only
    Host,
}

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// Smallest, and unpacks fast; Linux 5.9 and newer
    Zstd,
    /// For every kernel
    Gzip,
    /// Small, unpacks slowly
    Xz,
    /// Not at all
    None,
}

impl From<Preset> for preset::Preset {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Qemu => Self::Qemu,
            Preset::Generic => Self::Generic,
            Preset::Host => Self::Host,
        }
    }
}

impl From<Compress> for Packing {
    fn from(compress: Compress) -> Self {
        match compress {
            Compress::Zstd => Self::Zstd,
            Compress::Gzip => Self::Gzip,
            Compress::Xz => Self::Xz,
            Compress::None => Self::None,
        }
    }
}

/// Makes the initramfs.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let kernel = Kernel::find(&args.modules, args.kernel_release.as_deref())?;
    check_kernel(&kernel, &args, term)?;
    let modules = collect(&kernel, &args)?;
    let wanted = modules
        .modules
        .iter()
        .flat_map(|(name, packed)| packed.modinfo.firmware.iter().map(move |file| (name.as_str(), file.as_str())));
    let firmware = Firmware::find(&kernel, wanted)?;
    let inputs = Inputs::read(&args)?;
    if let Some(failure) = inputs.config.as_deref().and_then(|config| Settings::parse(config, b"").0.proofs().err()) {
        bail!("--config: {}: {}; nothing would boot with it", failure.object, failure.cause);
    }
    for warning in inputs.config.as_deref().map(check_words).unwrap_or_default() {
        term.warn(format_args!("--config: {warning}"));
    }
    let tree = Parts {
        kernel: &kernel,
        modules: &modules,
        firmware: &firmware,
        init: &inputs.init,
        shell: inputs.shell.as_deref(),
        keys: &inputs.keys,
        key_threshold: args.key_threshold,
        min_version: args.min_version,
        ca: &inputs.ca,
        identity: inputs.identity.as_ref(),
        token: inputs.token.as_deref(),
        config: inputs.config.as_deref(),
        build_time: inputs.epoch.unwrap_or(inputs.newest),
    }
    .tree()?;
    let mtime = u32::try_from(inputs.epoch.unwrap_or(0)).context("SOURCE_DATE_EPOCH is beyond the year 2106")?;
    let newc = tree.to_newc(mtime)?;
    let progress = term.progress("compressing", newc.len() as u64);
    let file = assembly::pack(&newc, args.compress.into(), &inputs.early, |bytes| progress.add(bytes));
    progress.finish();
    let file = file.context("compressing failed")?;
    note_missing_firmware(&kernel, &firmware, term);
    if inputs.identity.is_some() || inputs.token.is_some() {
        term.note("the initramfs holds a secret: whoever can read the file, or the server that it boots from, has it");
    }
    output::write(&args.output, &file)?;
    summary(&args.output, &kernel, &modules, &firmware, &file)
}

/// Refuses a kernel that cannot boot an image, or cannot unpack this archive.
fn check_kernel(kernel: &Kernel, args: &Args, term: &Term) -> Result<()> {
    let lacks = lacks(kernel);
    for lack in lacks.iter().filter(|lack| !lack.feature.vital || args.allow_missing) {
        term.warn(lack);
    }
    if let Some(lack) = lacks.iter().find(|lack| lack.feature.vital && !args.allow_missing) {
        bail!(
            "kernel {}: {lack}. Take a kernel that has {}, or the complete folder of its modules; \
             --allow-missing packs all the same",
            kernel.release,
            lack.feature.option
        );
    }
    let packing = Packing::from(args.compress);
    match kernel.unpacks(packing) {
        Support::Missing => {
            let all = [Packing::Zstd, Packing::Xz, Packing::Gzip, Packing::None];
            let able =
                all.into_iter().find(|other| kernel.unpacks(*other) == Support::Builtin).unwrap_or(Packing::None);
            bail!(
                "kernel {} cannot unpack an initramfs compressed by {} ({} is not set): take --compress {}",
                kernel.release,
                packing.compression(),
                packing.compression().kernel_option().unwrap_or_default(),
                able.compression()
            )
        }
        Support::Unknown if packing != Packing::Gzip => {
            term.note(format_args!(
                "no config of kernel {} was found, so nothing tells whether it can unpack {}; every kernel unpacks \
                 --compress gzip",
                kernel.release,
                packing.compression()
            ));
        }
        _ => {}
    }
    Ok(())
}

fn collect(kernel: &Kernel, args: &Args) -> Result<Closure> {
    let mut collector = Collector::new(kernel);
    let devices = match args.preset {
        Preset::Host => Devices::below(Path::new("/sys/bus")).fresh(),
        Preset::Qemu | Preset::Generic => BTreeSet::new(),
    };
    preset::Preset::from(args.preset).collect(&mut collector, &devices)?;
    args.include_module.iter().try_for_each(|name| collector.module(name)).context("--include-module")?;
    Ok(collector.finish())
}

/// The files that the arguments name.
struct Inputs {
    init: Vec<u8>,
    shell: Option<Vec<u8>>,
    keys: Vec<Named>,
    ca: Vec<Named>,
    identity: Option<Identity>,
    token: Option<Vec<u8>>,
    config: Option<Vec<u8>>,
    early: Vec<u8>,
    /// SOURCE_DATE_EPOCH, seconds since 1970.
    epoch: Option<u64>,
    /// When the newest of these files was changed: the same inputs give the same build time.
    newest: u64,
}

impl Inputs {
    fn read(args: &Args) -> Result<Self> {
        let mut newest = 0;
        let mut read = |path: &Path| -> Result<Vec<u8>> {
            let at = || path.display().to_string();
            let changed = fs::metadata(path).and_then(|meta| meta.modified()).with_context(at)?;
            newest = newest.max(changed.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()));
            fs::read(path).with_context(at)
        };
        let init = read(&init_path(args)?)?;
        let shell = match &args.shell {
            Some(path) => Some(read(&shell_path(path.as_deref())?)?),
            None => None,
        };
        let mut keys = Vec::new();
        for path in &args.key {
            let name = path.file_name().and_then(|name| name.to_str()).context("--key takes a file")?;
            keys.push(Named { name: name.to_owned(), data: read(path)? });
        }
        let mut ca = Vec::new();
        for path in &args.ca {
            let path = if path == Path::new("system") { Path::new(SYSTEM_CA) } else { path };
            ca.push(Named { name: path.display().to_string(), data: read(path)? });
        }
        let identity = match (&args.client_cert, &args.client_key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate: read(certificate)?, key: read(key)? }),
            (None, None) => None,
            _ => bail!("--client-cert and --client-key go together"),
        };
        let token = args.token.as_deref().map(&mut read).transpose()?;
        let config = args.config.as_deref().map(&mut read).transpose()?;
        let early = match &args.microcode {
            Some(path) => early_archive(&read(path)?).with_context(|| path.display().to_string())?,
            None => Vec::new(),
        };
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => Some(text.trim().parse().context("SOURCE_DATE_EPOCH is no number of seconds")?),
            Err(_) => None,
        };
        Ok(Self { init, shell, keys, ca, identity, token, config, early, epoch, newest })
    }
}

fn init_path(args: &Args) -> Result<PathBuf> {
    match &args.init {
        Some(path) => Ok(path.clone()),
        None => {
            let own = std::env::current_exe().context("the place of this program")?;
            let path = own.with_file_name("init");
            if !path.is_file() {
                bail!(
                    "there is no {}: name rootbeam's init with --init FILE (`make build` makes both)",
                    path.display()
                );
            }
            Ok(path)
        }
    }
}

fn shell_path(given: Option<&Path>) -> Result<PathBuf> {
    let usual = ["/bin/busybox", "/usr/bin/busybox", "/usr/lib/busybox/busybox-static"].map(Path::new);
    given
        .or_else(|| usual.into_iter().find(|path| path.is_file()))
        .map(Path::to_owned)
        .context("this machine has no busybox to pack: install busybox-static, or name one with --shell BUSYBOX")
}

/// A device whose firmware is missing may still work: drivers name every file that any of their devices might want.
fn note_missing_firmware(kernel: &Kernel, firmware: &Firmware, term: &Term) {
    const SHOWN: usize = 5;
    let askers: BTreeSet<&str> = firmware.missing.values().flatten().map(String::as_str).collect();
    if askers.is_empty() {
        return;
    }
    let shown: Vec<&str> = askers.iter().take(SHOWN).copied().collect();
    term.note(format_args!(
        "{} firmware files are not below {}; some devices of these drivers may need them: {}{}",
        firmware.missing.len(),
        kernel.root().unwrap_or(&kernel.folder).join("lib/firmware").display(),
        shown.join(", "),
        if askers.len() > SHOWN { ", …" } else { "" }
    ));
}

fn summary(output: &Path, kernel: &Kernel, modules: &Closure, firmware: &Firmware, file: &[u8]) -> Result<()> {
    // Read back what was written: the figures are the file's, and it is known to be readable.
    let report = Report::of(file)?;
    let rooms: Vec<String> = report.rooms.iter().map(|(room, size)| format!("{room} {}", Bytes(size.bytes))).collect();
    println!(
        "{}: {} for kernel {}, {} modules, {} firmware files; unpacked: {}",
        output.display(),
        Bytes(file.len() as u64),
        kernel.release,
        modules.modules.len(),
        firmware.files.len(),
        rooms.join(", ")
    );
    Ok(())
}
