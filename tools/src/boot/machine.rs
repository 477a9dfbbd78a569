//! A QEMU machine as a value, and the command that runs it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The address by which a guest of QEMU's user network reaches the host.
pub const HOST: &str = "10.0.2.2";

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// Memory in MiB.
    pub memory: u64,
    /// Processors.
    pub cpus: u32,
    /// What executes the guest.
    pub accel: Accel,
    /// How it starts.
    pub start: Start,
    /// Its network card.
    pub nic: Nic,
    /// Ports of the host's loopback that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Where its first serial port goes.
    pub serial: Serial,
    /// Whether a reboot starts it again instead of ending it.
    pub reboots: bool,
}

/// What executes a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// QEMU's own translator: slow, works everywhere.
    Tcg,
    /// The host's processor.
    Kvm,
}

/// How a machine starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// QEMU loads kernel and initramfs.
    Direct {
        /// The kernel.
        kernel: PathBuf,
        /// The initramfs.
        initramfs: PathBuf,
        /// The kernel's command line.
        command_line: String,
    },
    /// The firmware boots from the network.
    Pxe {
        /// The folder that QEMU's TFTP server offers.
        tftp: PathBuf,
        /// The file in it that the firmware loads.
        file: String,
    },
}

/// A network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Nic {
    /// virtio-net-pci
    Virtio,
    /// Intel 82540EM
    E1000,
}

impl Nic {
    fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
        }
    }

    /// The network boot program in QEMU's firmware folder.
    pub fn rom(self) -> &'static str {
        match self {
            Self::Virtio => "efi-virtio.rom",
            Self::E1000 => "efi-e1000.rom",
        }
    }
}

/// A port of the host's loopback that leads to a TCP port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port of the guest.
    pub guest: u16,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
        match ports {
            Some((host, guest)) if host > 0 && guest > 0 => Ok(Self { host, guest }),
            _ => Err("write HOST:GUEST, two ports, as 8080:80".into()),
        }
    }
}

/// Where a serial port goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// Standard input and output; Ctrl-A X ends the machine.
    Stdio,
    /// The same, and all that the machine says goes into this file too.
    Logged(PathBuf),
    /// A file.
    File(PathBuf),
}

impl Machine {
    /// A machine of 1 GiB and two processors that starts so.
    pub fn new(start: Start) -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            memory: 1024,
            cpus: 2,
            accel: Accel::Tcg,
            start,
            nic: Nic::Virtio,
            forwards: Vec::new(),
            serial: Serial::Stdio,
            reboots: false,
        }
    }

    /// The command that runs it: program and arguments.
    pub fn command(&self) -> Vec<OsString> {
        let accel = match self.accel {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        };
        let mut words = Words(vec![self.qemu.clone().into_os_string()]);
        words.add(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"]);
        words.add(["-machine", &format!("q35,accel={accel}"), "-cpu", "max"]);
        words.add(["-smp", &self.cpus.to_string(), "-m", &format!("{}M", self.memory)]);
        // Without it the first random number may wait for minutes.
        words.add(["-device", "virtio-rng-pci"]);
        let mut network = OsString::from("user,id=net0");
        for Forward { host, guest } in &self.forwards {
            network.push(format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        if let Start::Pxe { tftp, file } = &self.start {
            network.push(",tftp=");
            network.push(comma_escaped(tftp.as_os_str()));
            network.push(format!(",bootfile={file}"));
        }
        words.add([OsStr::new("-netdev"), &network]);
        words.add(["-device", &format!("{},netdev=net0", self.nic.device())]);
        match &self.serial {
            Serial::Stdio => words.add(["-serial", "mon:stdio"]),
            // What `mon:stdio` stands for, with a log.
            Serial::Logged(path) => {
                let mut stdio = OsString::from("stdio,id=serial0,mux=on,signal=off,logfile=");
                stdio.push(comma_escaped(path.as_os_str()));
                words.add([OsStr::new("-chardev"), &stdio]);
                words.add(["-serial", "chardev:serial0", "-mon", "chardev=serial0,mode=readline"]);
            }
            Serial::File(path) => {
                let mut file = OsString::from("file,id=serial0,path=");
                file.push(comma_escaped(path.as_os_str()));
                words.add([OsStr::new("-chardev"), &file]);
                words.add(["-serial", "chardev:serial0"]);
            }
        }
        if !self.reboots {
            words.add(["-no-reboot"]);
        }
        match &self.start {
            Start::Direct { kernel, initramfs, command_line } => {
                words.add([OsStr::new("-kernel"), kernel.as_os_str()]);
                words.add([OsStr::new("-initrd"), initramfs.as_os_str()]);
                words.add(["-append", command_line]);
            }
            Start::Pxe { .. } => words.add(["-boot", "n"]),
        }
        words.0
    }
}

struct Words(Vec<OsString>);

impl Words {
    fn add<const N: usize, T: AsRef<OsStr> + ?Sized>(&mut self, words: [&T; N]) {
        self.0.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
    }
}

/// QEMU takes a doubled comma in an option's value for a comma.
fn comma_escaped(value: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = value.as_bytes().iter().flat_map(|&byte| if byte == b',' { vec![byte; 2] } else { vec![byte] });
    OsString::from_vec(bytes.collect())
}

/// `command` as a person types it into a shell.
pub fn shell_line(command: &[OsString]) -> String {
    let quoted = |word: &OsString| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+:,./@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_boot_is_this_command() {
        let machine = Machine::new(Start::Direct {
            kernel: "vmlinuz".into(),
            initramfs: "initramfs.zst".into(),
            command_line: "console=ttyS0 rootbeam.image=http://10.0.2.2:8000/web.squashfs".into(),
        });
        assert_eq!(
            shell_line(&machine.command()),
            "qemu-system-x86_64 -nodefaults -no-user-config -display none -monitor none -machine q35,accel=tcg \
             -cpu max -smp 2 -m 1024M -device virtio-rng-pci -netdev user,id=net0 -device virtio-net-pci,netdev=net0 \
             -serial mon:stdio -no-reboot -kernel vmlinuz -initrd initramfs.zst \
             -append 'console=ttyS0 rootbeam.image=http://10.0.2.2:8000/web.squashfs'"
        );
    }

    #[test]
    fn network_boot_is_this_command() {
        let machine = Machine {
            memory: 512,
            cpus: 1,
            accel: Accel::Kvm,
            nic: Nic::E1000,
            forwards: vec![Forward { host: 8080, guest: 80 }, Forward { host: 2222, guest: 22 }],
            serial: Serial::File("a,b.log".into()),
            reboots: true,
            ..Machine::new(Start::Pxe { tftp: "/srv/t".into(), file: "pxelinux.0".into() })
        };
        assert_eq!(
            shell_line(&machine.command()),
            "qemu-system-x86_64 -nodefaults -no-user-config -display none -monitor none -machine q35,accel=kvm \
             -cpu max -smp 1 -m 512M -device virtio-rng-pci -netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80,\
             hostfwd=tcp:127.0.0.1:2222-:22,tftp=/srv/t,bootfile=pxelinux.0 -device e1000,netdev=net0 \
             -chardev file,id=serial0,path=a,,b.log -serial chardev:serial0 -boot n"
        );
    }

    #[test]
    fn a_logged_console_is_that_of_the_terminal() {
        let start = Start::Pxe { tftp: "/srv/t".into(), file: "pxelinux.0".into() };
        let machine = Machine { serial: Serial::Logged("/tmp/a,b".into()), ..Machine::new(start) };
        let line = shell_line(&machine.command());
        let console = "-chardev stdio,id=serial0,mux=on,signal=off,logfile=/tmp/a,,b -serial chardev:serial0 \
                       -mon chardev=serial0,mode=readline ";
        assert!(line.contains(console), "{line}");
    }

    #[test]
    fn forwards_are_two_ports() {
        assert_eq!("8080:80".parse(), Ok(Forward { host: 8080, guest: 80 }));
        for bad in ["8080", "a:b", "0:80", "80:0", "1:2:3", "70000:80"] {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }
}
