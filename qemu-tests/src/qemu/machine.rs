//! A machine for QEMU, described.

use super::guest::Guest;
use super::pxe::Tftp;
use crate::outcome::Booted;
use crate::packages::Kernel;
use anyhow::Result;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A network card.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The device as QEMU names it.
    pub model: String,
    /// Hardware address; one is made up for `None`.
    pub mac: Option<String>,
    /// Whether the cable is plugged in.
    pub carrier: bool,
    /// What is at its other end.
    pub wiring: Wiring,
}

/// What a cable leads to.
#[derive(Clone, Debug)]
pub enum Wiring {
    /// QEMU's own network: DHCP, DNS, the host's loopback as [`super::HOST`], TFTP.
    User,
    /// A hub with nobody else.
    Silent,
}

impl Nic {
    /// A virtio card on QEMU's own network.
    pub fn user() -> Self {
        Self { model: "virtio-net-pci".into(), mac: None, carrier: true, wiring: Wiring::User }
    }

    /// A virtio card on a wire where nobody answers.
    pub fn silent() -> Self {
        Self { wiring: Wiring::Silent, ..Self::user() }
    }

    /// The same with no carrier.
    pub fn unplugged(self) -> Self {
        Self { carrier: false, ..self }
    }

    /// The same as another device (`e1000`, …).
    pub fn model(self, model: &str) -> Self {
        Self { model: model.to_owned(), ..self }
    }

    /// The same with a hardware address.
    pub fn mac(self, mac: &str) -> Self {
        Self { mac: Some(mac.to_owned()), ..self }
    }
}

/// Where the kernel comes from.
#[derive(Clone, Debug)]
enum Source {
    /// QEMU loads it.
    Direct { kernel: PathBuf, initramfs: PathBuf },
    /// The firmware fetches it over the first card.
    Pxe(Tftp),
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Boot {
    source: Source,
    cmdline: String,
    pub(super) nics: Vec<Nic>,
    memory: u32,
    cpus: u32,
    uuid: Option<String>,
    clock: Option<String>,
    forwards: Vec<u16>,
    pub(super) limit: Duration,
}

impl Boot {
    /// A machine without a card whose kernel and initramfs QEMU loads; the console is the first serial port.
    pub fn new(kernel: &Kernel, initramfs: &Path) -> Self {
        Self::direct(&kernel.vmlinuz, initramfs)
    }

    /// The same with a kernel by its path.
    pub fn direct(kernel: &Path, initramfs: &Path) -> Self {
        let source = Source::Direct { kernel: kernel.to_owned(), initramfs: initramfs.to_owned() };
        // A panic ends the machine at once, and the console tells of it.
        Self::from(source).cmdline("console=ttyS0 panic=-1")
    }

    /// A machine whose firmware boots from its first card; the command line is in the TFTP tree.
    pub fn pxe(tftp: Tftp) -> Self {
        Self::from(Source::Pxe(tftp))
    }

    fn from(source: Source) -> Self {
        let (cmdline, nics, forwards) = (String::new(), Vec::new(), Vec::new());
        let limit = Duration::from_secs(240);
        Self { source, cmdline, nics, memory: 512, cpus: 1, uuid: None, clock: None, forwards, limit }
    }

    /// With more words on the command line (not by PXE).
    pub fn cmdline(mut self, words: &str) -> Self {
        if !self.cmdline.is_empty() {
            self.cmdline.push(' ');
        }
        self.cmdline.push_str(words);
        self
    }

    /// With one more card.
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// With so many MiB of memory; 512 otherwise.
    pub fn memory(self, memory: u32) -> Self {
        Self { memory, ..self }
    }

    /// With so many processors; 1 otherwise.
    pub fn cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// With a firmware UUID.
    pub fn uuid(self, uuid: &str) -> Self {
        Self { uuid: Some(uuid.to_owned()), ..self }
    }

    /// With a clock chip that says this date; the host's time otherwise.
    pub fn clock(self, date: &str) -> Self {
        Self { clock: Some(date.to_owned()), ..self }
    }

    /// With a port of the guest that the host's loopback reaches: see [`Guest::forwarded`].
    pub fn forward(mut self, port: u16) -> Self {
        self.forwards.push(port);
        self
    }

    /// With another bound on every wait than four minutes.
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Starts the machine, takes the report of its real init, turns it off, and returns what is left of it. A boot
    /// that never reaches the probe must end by itself.
    pub fn run(&self) -> Result<Booted> {
        let mut guest = self.start()?;
        let world = match guest.probe()? {
            Some((probe, world)) => {
                probe.power_off()?;
                Some(world)
            }
            None => None,
        };
        guest.finish(world)
    }

    /// Starts the machine. Waits for its turn: two run at once.
    pub fn start(&self) -> Result<Guest> {
        Guest::start(self)
    }

    /// The command that runs it, but for its channels, and its forwarded ports: the guest's and the host's.
    pub(super) fn command(&self) -> Result<(Command, Vec<(u16, u16)>)> {
        let mut command = super::Emulator::get()?.command();
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-S", "-machine", "q35"]);
        command.args(["-cpu", "max", "-m", &self.memory.to_string(), "-smp", &self.cpus.to_string()]);
        let kvm = std::env::var("ROOTBEAM_KVM").is_ok_and(|wanted| wanted == "1");
        command.args(["-accel", if kvm { "kvm" } else { "tcg" }]);
        command.args(["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
        command.args(self.uuid.iter().flat_map(|uuid| ["-uuid", uuid]));
        command.args(self.clock.iter().flat_map(|date| ["-rtc".to_owned(), format!("base={date}")]));
        match &self.source {
            Source::Direct { kernel, initramfs } => {
                command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).args(["-append", &self.cmdline]);
            }
            Source::Pxe(_) => drop(command.args(["-boot", "n"])),
        }
        let mut forwards = Vec::new();
        for (number, nic) in self.nics.iter().enumerate() {
            let mut netdev = match nic.wiring {
                Wiring::User => format!("user,id=net{number}"),
                Wiring::Silent => format!("hubport,id=net{number},hubid={number}"),
            };
            if let (Wiring::User, 0) = (&nic.wiring, number) {
                for &port in &self.forwards {
                    let host = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
                    netdev += &format!(",hostfwd=tcp:127.0.0.1:{host}-:{port}");
                    forwards.push((port, host));
                }
                if let Source::Pxe(tftp) = &self.source {
                    netdev += &format!(",tftp={},bootfile=pxelinux.0", tftp.folder().display());
                }
            }
            let mac = nic.mac.clone().unwrap_or_else(|| format!("52:54:00:12:34:{:02x}", 0x56 + number));
            let mut device = format!("{},id=nic{number},netdev=net{number},mac={mac}", nic.model);
            if matches!(self.source, Source::Direct { .. }) {
                // The boot firmware of a card that nobody boots from costs seconds.
                device += ",romfile=";
            }
            command.args(["-netdev", &netdev, "-device", &device]);
        }
        Ok((command, forwards))
    }
}
