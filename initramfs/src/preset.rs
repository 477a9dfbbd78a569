//! Which drivers an archive carries, for a kind of machine; and whether the kernel can boot an image at all.

use crate::closure::{ClosureError, Collector};
use crate::kernel::{Kernel, Support};
use rootbeam_init::contract::CORE_MODULES;
use std::collections::BTreeSet;
use std::fmt;

/// A kind of machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// QEMU and KVM: virtio, e1000 and e1000e.
    Qemu,
    /// Any machine with wired Ethernet.
    #[default]
    Generic,
    /// The machine that packs.
    Host,
}

/// QEMU's network cards, console and randomness, and the buses below them.
const QEMU: [&str; 7] = ["virtio_pci", "virtio_mmio", "virtio_net", "e1000", "e1000e", "virtio_console", "virtio_rng"];

/// All of Ethernet. The drivers of PHYs are asked for by the number that the hardware tells, which no module names.
const GENERIC_FOLDERS: [&str; 6] = [
    "kernel/drivers/net/ethernet/",
    "kernel/drivers/net/usb/",
    "kernel/drivers/net/phy/",
    "kernel/drivers/net/mdio/",
    "kernel/drivers/net/hyperv/",
    "kernel/drivers/net/vmxnet3/",
];

/// Where network cards hide: USB host controllers, bridges, hypervisors; what Linux keeps elsewhere (qlge, in staging
/// until Linux gave it up); and VLANs and bonds.
const GENERIC: [&str; 19] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    "hv_vmbus",
    "hv_netvsc",
    "pci_hyperv",
    "xen_netfront",
    "vmd",
    "xhci_pci",
    "xhci_plat_hcd",
    "ehci_pci",
    "ehci_platform",
    "ohci_pci",
    "uhci_hcd",
    "qlge",
    "8021q",
    "bonding",
];

/// Drivers that a machine can do without while it boots: the booted system loads them from its own root.
const NOT_FOR_BOOT: [&str; 6] = [
    "kernel/drivers/gpu/",
    "kernel/drivers/media/",
    "kernel/drivers/bluetooth/",
    "kernel/drivers/net/wireless/",
    "kernel/drivers/platform/",
    "kernel/sound/",
];

impl Preset {
    /// Adds the core modules and this kind's drivers. `devices` are the aliases of this machine's devices, which
    /// only [`Preset::Host`] looks at.
    pub fn collect(self, collector: &mut Collector<'_>, devices: &BTreeSet<String>) -> Result<(), ClosureError> {
        let names: &[&str] = match self {
            Self::Qemu => &QEMU,
            Self::Generic => &GENERIC,
            Self::Host => &["8021q", "bonding"],
        };
        CORE_MODULES.iter().chain(names).try_for_each(|name| collector.module_if_there(name))?;
        match self {
            Self::Qemu => Ok(()),
            Self::Generic => GENERIC_FOLDERS.iter().try_for_each(|folder| collector.folder(folder)),
            Self::Host => {
                let wanted = |path: &str| !NOT_FOR_BOOT.iter().any(|folder| path.starts_with(folder));
                devices.iter().try_for_each(|alias| collector.alias(alias, wanted).map(|_| ()))
            }
        }
    }
}

/// Something that a boot needs of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The module that has it, or for [`COMPRESSORS`] how it was to be built.
    pub module: &'static str,
    /// The kernel option.
    pub option: &'static str,
    /// What does not work without it.
    pub lost: &'static str,
    /// Whether no boot is possible without it.
    pub vital: bool,
}

/// What a boot needs of the kernel, the vital first.
pub const FEATURES: [Feature; 6] = [
    Feature { module: "loop", option: "CONFIG_BLK_DEV_LOOP", lost: "no image can be attached", vital: true },
    Feature { module: "squashfs", option: "CONFIG_SQUASHFS", lost: "no squashfs image can be mounted", vital: true },
    Feature { module: "overlay", option: "CONFIG_OVERLAY_FS", lost: "no root can be made writable", vital: true },
    Feature { module: "af_packet", option: "CONFIG_PACKET", lost: "DHCP does not work", vital: false },
    Feature { module: "erofs", option: "CONFIG_EROFS_FS", lost: "no erofs image can be mounted", vital: false },
    Feature { module: "fuse", option: "CONFIG_FUSE_FS", lost: "images cannot be streamed", vital: false },
];

/// Compressors that `rootbeam image build` can take. Only a configuration tells of them.
pub const COMPRESSORS: [Feature; 3] = {
    let lost = "images compressed by it cannot be mounted, so build them with another --compress";
    [
        Feature { module: "squashfs with zstd", option: "CONFIG_SQUASHFS_ZSTD", lost, vital: false },
        Feature { module: "squashfs with xz", option: "CONFIG_SQUASHFS_XZ", lost, vital: false },
        Feature { module: "squashfs with gzip", option: "CONFIG_SQUASHFS_ZLIB", lost, vital: false },
    ]
};

/// A feature that the kernel does not have, or of which nothing tells that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The feature.
    pub feature: Feature,
    /// [`Support::Missing`] or [`Support::Unknown`].
    pub support: Support,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Feature { module, option, lost, .. } = self.feature;
        match self.support {
            Support::Unknown => write!(
                f,
                "nothing tells whether the kernel has {module} ({option}): neither a module, nor modules.builtin, nor \
                 its config was found; without it {lost}"
            ),
            _ => write!(f, "the kernel has no {module} ({option}): {lost}"),
        }
    }
}

/// The features that this kernel lacks.
pub fn lacks(kernel: &Kernel) -> Vec<Lack> {
    let all = FEATURES.iter().map(|f| Lack { feature: *f, support: kernel.support(f.module, f.option) });
    let lacking = all.filter(|lack| matches!(lack.support, Support::Missing | Support::Unknown));
    let config = kernel.config.as_ref().filter(|config| config.get("CONFIG_SQUASHFS").is_some());
    let without = |f: &&Feature| config.is_some_and(|config| config.get(f.option).is_none());
    let compressors = COMPRESSORS.iter().filter(without).map(|f| Lack { feature: *f, support: Support::Missing });
    lacking.chain(compressors).collect()
}
