//! Putting the archive together, as `rootbeam_init::contract` says it must be.

use crate::binary::{Unfit, require_static};
use crate::closure::Closure;
use crate::compress::Packing;
use crate::firmware::Firmware;
use crate::kernel::Kernel;
use crate::tree::{Node, Tree};
use rootbeam_init::access::certificates::{self, Identity, PemFault};
use rootbeam_init::access::credentials::{self, LONGEST_TOKEN};
use rootbeam_init::contract;
use rootbeam_init::trust::{AnchorFault, Anchors};

/// A file that the operator adds, by a single path component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Name in its folder.
    pub name: String,
    /// Content.
    pub data: Vec<u8>,
}

/// All that goes into an archive.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The kernel that it is for.
    pub kernel: &'a Kernel,
    /// Its modules.
    pub modules: &'a Closure,
    /// Their firmware.
    pub firmware: &'a Firmware,
    /// The static program `init`.
    pub init: &'a [u8],
    /// A static busybox.
    pub shell: Option<&'a [u8]>,
    /// Public minisign keys.
    pub keys: &'a [Named],
    /// How many of them must have signed a manifest; one where nothing is said.
    pub key_threshold: Option<u8>,
    /// The least version of a manifest that boots.
    pub min_version: Option<u64>,
    /// Trusted root certificates, PEM, and the name of each file that they came from.
    pub ca: &'a [Named],
    /// What this machine shows to servers that ask for a client certificate.
    pub identity: Option<&'a Identity>,
    /// A token file for the servers of the image.
    pub token: Option<&'a [u8]>,
    /// Words for the command line.
    pub config: Option<&'a [u8]>,
    /// When the archive is built, seconds since 1970.
    pub build_time: u64,
}

/// Why an archive cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// The init program cannot run.
    #[error("the init program cannot be packed: {0}")]
    Init(Unfit),
    /// The shell cannot run.
    #[error("the shell cannot be packed: {0}")]
    Shell(Unfit),
    /// Keys, threshold or floor that init would refuse.
    #[error(transparent)]
    Trust(#[from] AnchorFault),
    /// Two keys of one name.
    #[error("two keys have the file name {0}: rename one")]
    SameKey(String),
    /// Not roots.
    #[error("the CA file {0} {1}")]
    Ca(String, PemFault),
    /// Not a certificate and its key.
    #[error("{0} {1}")]
    Identity(&'static str, PemFault),
    /// Not a token.
    #[error("the token file must hold one line of printing ASCII without blanks, at most {LONGEST_TOKEN} bytes")]
    Token,
}

impl Parts<'_> {
    /// The archive as a tree.
    pub fn tree(&self) -> Result<Tree, AssemblyError> {
        let machine = self.modules.modules.values().next().map(|module| module.modinfo.machine);
        require_static(self.init, machine).map_err(AssemblyError::Init)?;
        let mut tree = Tree::new();
        for path in contract::DIRECTORIES {
            tree.put(path, Node::Directory);
        }
        for node in contract::NODES {
            tree.put(node.path, Node::Device { mode: node.mode, major: node.major, minor: node.minor });
        }
        tree.program(contract::INIT, self.init);
        for path in contract::MODPROBE {
            tree.put(path, Node::Symlink(format!("/{}", contract::INIT)));
        }
        tree.file(contract::INITRD_RELEASE, release_file());
        tree.file(contract::BUILD_TIME, format!("{}\n", self.build_time));
        self.add_modules(&mut tree);
        self.add_trust(&mut tree)?;
        self.add_credentials(&mut tree)?;
        if let Some(config) = self.config {
            tree.file(contract::CONFIG, config);
        }
        if let Some(shell) = self.shell {
            require_static(shell, machine).map_err(AssemblyError::Shell)?;
            tree.program(contract::SHELL, shell);
            tree.put("bin/sh", Node::Symlink("busybox".to_owned()));
        }
        Ok(tree)
    }

    fn add_modules(&self, tree: &mut Tree) {
        let folder = contract::modules_dir(&self.kernel.release);
        for packed in self.modules.modules.values() {
            tree.file(&format!("{folder}/{}", packed.path), packed.data.as_slice());
        }
        for (name, data) in self.modules.index_files(self.kernel) {
            tree.file(&format!("{folder}/{name}"), data);
        }
        for (name, data) in &self.firmware.files {
            tree.file(&format!("lib/firmware/{name}"), data.as_slice());
        }
    }

    fn add_trust(&self, tree: &mut Tree) -> Result<(), AssemblyError> {
        for Named { name, data } in self.keys {
            let path = format!("{}/{name}", contract::KEYS);
            if tree.get(&path).is_some() {
                return Err(AssemblyError::SameKey(name.clone()));
            }
            tree.file(&path, data.as_slice());
        }
        // What init would refuse is refused when it is packed.
        let named: Vec<_> = self.keys.iter().map(|key| (key.name.as_str(), key.data.as_slice())).collect();
        Anchors::new(&named, self.key_threshold, self.min_version)?;
        if let Some(needed) = self.key_threshold {
            tree.file(contract::KEY_THRESHOLD, format!("{needed}\n"));
        }
        if let Some(version) = self.min_version {
            tree.file(contract::MIN_VERSION, format!("{version}\n"));
        }
        let mut roots = Vec::new();
        for Named { name, data } in self.ca {
            certificates::roots(data).map_err(|fault| AssemblyError::Ca(name.clone(), fault))?;
            roots.extend_from_slice(data);
            // The next file's first line must not continue this one's last.
            roots.push(b'\n');
        }
        if !roots.is_empty() {
            tree.file(contract::CA, roots);
        }
        Ok(())
    }

    fn add_credentials(&self, tree: &mut Tree) -> Result<(), AssemblyError> {
        if let Some(identity) = self.identity {
            certificates::certified(identity).map_err(|fault| {
                let of_key = matches!(fault, PemFault::NoKey | PemFault::Key | PemFault::OtherKey);
                let what = if of_key { "the client's key file" } else { "the client's certificate file" };
                AssemblyError::Identity(what, fault)
            })?;
            tree.file(contract::CLIENT_CERTIFICATE, identity.certificate.as_slice());
            tree.secret(contract::CLIENT_KEY, identity.key.as_slice());
        }
        if let Some(token) = self.token {
            let token = std::str::from_utf8(token).ok().and_then(credentials::token).ok_or(AssemblyError::Token)?;
            tree.secret(contract::TOKEN, format!("{token}\n"));
        }
        Ok(())
    }
}

fn release_file() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("ID=rootbeam\nNAME=rootbeam\nVERSION_ID={version}\nPRETTY_NAME=\"rootbeam initramfs {version}\"\n")
}

/// The bytes of an initramfs file: `early` as it is, then the archive `newc`, compressed. Equal arguments give equal
/// bytes. `taken` is told how many bytes more the compressor has taken.
pub fn pack(newc: &[u8], packing: Packing, early: &[u8], taken: impl FnMut(u64)) -> std::io::Result<Vec<u8>> {
    Ok([early, &packing.pack(newc, taken)?].concat())
}
