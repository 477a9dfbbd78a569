//! The command line, typed. What cannot be understood is a [`Notice`], never a reason not to boot; what a boot
//! cannot do without is asked for by [`Settings::sources`].

pub mod cmdline;
pub mod ip;
pub mod layer;
pub mod options;
pub mod reach;
pub mod source;
pub mod values;

use crate::digest::Sha256;
use crate::failure::{Failure, Step};
use crate::label::printable;
use crate::manifest::MAX_LAYERS;
use cmdline::Word;
use ip::{Ip, LeftOut};
use layer::Layer;
use reach::Header;
use source::{HIDDEN, Source};
use std::net::IpAddr;
use std::path::PathBuf;
use url::Url;
use values::{Amount, Expected, Mode, OnFailure, StreamStall};

/// What the operator asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `rootbeam.image=`.
    pub image: Vec<Source>,
    /// `rootbeam.layer=`, the topmost last.
    pub layers: Vec<Layer>,
    /// `rootbeam.header=`, one a name.
    pub headers: Vec<Header>,
    /// `rootbeam.proxy=` or `proxy=`.
    pub proxy: Option<Url>,
    /// `rootbeam.ntp=`: names or addresses.
    pub time_servers: Vec<String>,
    /// `rootbeam.sha256=`.
    pub sha256: Option<Sha256>,
    /// `rootbeam.manifest=`.
    pub manifest: Option<Sha256>,
    /// `rootbeam.verify=require`.
    pub require_verified: bool,
    /// `rootbeam.mode=`.
    pub mode: Mode,
    /// `rootbeam.stream.stall=`.
    pub stream_stall: StreamStall,
    /// `rootbeam.stream.trace=`, in seconds.
    pub stream_trace: Option<u32>,
    /// `rootbeam.overlay.size=`.
    pub overlay: Option<Amount>,
    /// `rootbeam.reserve=`, in bytes.
    pub reserve: Option<u64>,
    /// `rootbeam.on-failure=`; none is the default policy.
    pub on_failure: Option<OnFailure>,
    /// `panic=`: seconds until the reboot, 0 for never, negative for at once (Documentation/admin-guide).
    pub panic: Option<i32>,
    /// `rootbeam.timeout=`, in seconds.
    pub timeout: Option<u32>,
    /// `rootbeam.stall=`, in seconds.
    pub stall: u32,
    /// `rootbeam.net.carrier=`, in seconds.
    pub carrier: u32,
    /// `rootbeam.net.lease=`, in seconds.
    pub lease: u32,
    /// What is printed.
    pub log: log::LevelFilter,
    /// `quiet`: no progress.
    pub quiet: bool,
    /// `init=`.
    pub init: Option<PathBuf>,
    /// `ip=`; the last one counts.
    pub ip: Option<Ip>,
    /// `BOOTIF=`.
    pub bootif: Option<[u8; 6]>,
    /// `nameserver=`, in order.
    pub nameservers: Vec<IpAddr>,
    /// `modprobe.blacklist=` and `rd.driver.blacklist=`.
    pub blacklist: Vec<String>,
    /// `MODULE.PARAMETER=VALUE` words, for the modules that are loaded.
    pub module_parameters: Vec<(String, String)>,
    /// Words that say what to verify by or what to stack and cannot be understood: with one of them nothing is booted.
    pub unclear: Vec<Notice>,
    /// The last `rootbeam.image=` that names no source.
    pub refused_image: Option<Notice>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: Vec::new(),
            layers: Vec::new(),
            headers: Vec::new(),
            proxy: None,
            time_servers: Vec::new(),
            sha256: None,
            manifest: None,
            require_verified: false,
            mode: Mode::Ram,
            stream_stall: StreamStall::Wait,
            stream_trace: None,
            overlay: None,
            reserve: None,
            on_failure: None,
            panic: None,
            timeout: None,
            stall: 10,
            carrier: 30,
            lease: 30,
            log: log::LevelFilter::Info,
            quiet: false,
            init: None,
            ip: None,
            bootif: None,
            nameservers: Vec::new(),
            blacklist: Vec::new(),
            module_parameters: Vec::new(),
            unclear: Vec::new(),
            refused_image: None,
        }
    }
}

/// A word that was not followed, or not in full, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The word, fit for a console.
    pub word: String,
    /// What is the matter with it.
    pub fault: Fault,
}

/// What can be the matter with a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No option of rootbeam has this name; the nearest that does.
    Unknown(Option<&'static str>),
    /// The value is none of this option's.
    Value(Expected),
    /// The value is followed but for this part.
    LeftOut(LeftOut),
    /// A word of other initramfs that asks for what is not done here, and what to do instead.
    Foreign(&'static str),
    /// As `Value`, of an option that says what to verify by, or of which layers the root is made.
    Proof(Expected),
}

impl Notice {
    /// The failure of a boot that needs this word; none where its value is not what is wrong.
    fn failure(&self) -> Option<Failure> {
        let (Fault::Proof(expected) | Fault::Value(expected)) = &self.fault else { return None };
        Some(Failure::new(
            Step::Settings,
            self.word.clone(),
            format!("its value must be {expected}"),
            "correct it on the kernel command line, or in the file that was packed with `rootbeam pack --config`",
        ))
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { word, fault } = self;
        match fault {
            Fault::Unknown(Some(near)) => write!(f, "unknown option {word} is ignored; did you mean {near}?"),
            Fault::Unknown(None) => write!(f, "unknown option {word} is ignored; the README lists all options"),
            Fault::Value(expected) => write!(f, "{word} is ignored: its value must be {expected}"),
            Fault::LeftOut(part) => write!(f, "{word} is followed, except for its {part}, which ip= does not set here"),
            Fault::Foreign(instead) => write!(f, "{word} is not followed: {instead}"),
            Fault::Proof(expected) => write!(f, "{word} forbids to boot: its value must be {expected}"),
        }
    }
}

impl Settings {
    /// Reads the settings packed in the archive, then the kernel command line; of two equal options the later wins.
    pub fn parse(packed: &[u8], line: &[u8]) -> (Self, Vec<Notice>) {
        let mut settings = Self::default();
        let mut notices = Vec::new();
        let mut explicit_log = None;
        for word in cmdline::words_of_file(packed).into_iter().chain(cmdline::words(line)) {
            if let Err(fault) = settings.apply(&word, &mut explicit_log) {
                let notice = Notice { word: printable(&public(&word), 90), fault };
                match notice.fault {
                    Fault::Proof(_) => settings.unclear.push(notice.clone()),
                    _ if word.key() == Some("rootbeam.image") => settings.refused_image = Some(notice.clone()),
                    _ => {}
                }
                notices.push(notice);
            }
        }
        let usual = if settings.quiet { log::LevelFilter::Warn } else { log::LevelFilter::Info };
        settings.log = explicit_log.unwrap_or(usual);
        (settings, notices)
    }

    fn apply(&mut self, word: &Word, log: &mut Option<log::LevelFilter>) -> Result<(), Fault> {
        let Some(key) = word.key() else { return Ok(()) };
        let value = || word.text().ok_or_else(|| Fault::Value(Expected("given, as text behind =".to_owned())));
        let seconds = || -> Result<u32, Fault> {
            let number = value()?.parse().ok().filter(|n| (1..=86_400 * 365).contains(n));
            number.ok_or_else(|| Fault::Value(Expected("a number of seconds, at least 1".to_owned())))
        };
        match key {
            "rootbeam.image" => {
                let sources: Result<Vec<_>, _> =
                    value()?.split(',').filter(|s| !s.is_empty()).take(MAX_SOURCES).map(Source::parse).collect();
                let given = sources.map_err(Fault::Value)?;
                if given.is_empty() {
                    return Err(Fault::Value(Expected::that(source::A_URL)));
                }
                self.image = given;
            }
            "rootbeam.layer" => {
                let layer = Layer::parse(word.text().unwrap_or_default()).map_err(Fault::Proof)?;
                if self.layers.len() >= MAX_LAYERS {
                    return Err(proof(&format!("one of at most {MAX_LAYERS} layers")));
                }
                self.layers.push(layer);
            }
            "rootbeam.header" => {
                let header = Header::parse(value()?).map_err(Fault::Value)?;
                self.headers.retain(|other| other.name() != header.name());
                if self.headers.len() < reach::MAX_HEADERS {
                    self.headers.push(header);
                }
            }
            "rootbeam.proxy" | "proxy" => self.proxy = Some(reach::proxy(value()?).map_err(Fault::Value)?),
            "rootbeam.ntp" => self.time_servers = reach::time_servers(value()?).map_err(Fault::Value)?,
            "rootbeam.sha256" => self.sha256 = Some(word.text().and_then(hash).ok_or_else(|| proof(DIGITS))?),
            "rootbeam.manifest" => {
                let digits = word.text().and_then(|text| text.strip_prefix("sha256:"));
                let digest = digits.and_then(hash).ok_or_else(|| proof("sha256: and 64 hexadecimal digits"))?;
                self.manifest = Some(digest);
            }
            "rootbeam.verify" => match word.text() {
                Some("require") => self.require_verified = true,
                // A packed `require` is not loosened from outside.
                Some("default") => {}
                _ => return Err(proof("require or default")),
            },
            "rootbeam.mode" => self.mode = Mode::parse(value()?).map_err(Fault::Value)?,
            "rootbeam.stream.stall" => self.stream_stall = StreamStall::parse(value()?).map_err(Fault::Value)?,
            "rootbeam.stream.trace" => self.stream_trace = Some(values::trace(value()?).map_err(Fault::Value)?),
            "rootbeam.overlay.size" => self.overlay = Some(Amount::parse(value()?).map_err(Fault::Value)?),
            "rootbeam.reserve" => self.reserve = Some(values::bytes(value()?).map_err(Fault::Value)?),
            "rootbeam.on-failure" => self.on_failure = Some(OnFailure::parse(value()?).map_err(Fault::Value)?),
            "rootbeam.timeout" => self.timeout = Some(seconds()?),
            "rootbeam.stall" => self.stall = seconds()?,
            "rootbeam.net.carrier" => self.carrier = seconds()?,
            "rootbeam.net.lease" => self.lease = seconds()?,
            "rootbeam.log" => {
                let level = value()?.parse().ok().filter(|l| *l != log::LevelFilter::Off);
                let expected = || Fault::Value(Expected("error, warn, info or debug".to_owned()));
                *log = Some(level.ok_or_else(expected)?);
            }
            _ if key.starts_with("rootbeam.") => return Err(Fault::Unknown(options::nearest(key))),
            "quiet" => self.quiet = true,
            "init" => self.init = word.value.as_deref().filter(|path| !path.is_empty()).map(path),
            "panic" => {
                let expected = || Fault::Value(Expected::that("a number of seconds, 0 for never, below 0 for at once"));
                self.panic = Some(value()?.parse().map_err(|_| expected())?);
            }
            "vlan" => return Err(Fault::Foreign(NO_VLAN)),
            "bond" => return Err(Fault::Foreign(NO_BOND)),
            "root" if word.text().is_some_and(|value| value.starts_with("live:")) => {
                return Err(Fault::Foreign("rootbeam.image=URL says where the image is"));
            }
            "ip" => {
                let (ip, left_out) = ip::parse(value()?).map_err(Fault::Value)?;
                self.ip = Some(ip);
                left_out.map_or(Ok(()), |part| Err(Fault::LeftOut(part)))?;
            }
            "BOOTIF" => self.bootif = Some(values::bootif(value()?).map_err(Fault::Value)?),
            "nameserver" => {
                let server = ip::server(value()?).map_err(Fault::Value)?;
                if self.nameservers.len() < MAX_NAMESERVERS {
                    self.nameservers.push(server);
                }
            }
            "modprobe.blacklist" | "rd.driver.blacklist" => {
                self.blacklist.extend(value()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
            }
            _ => {
                if let (Some((module, parameter)), Some(value)) = (key.split_once('.'), word.text())
                    && !module.is_empty()
                {
                    self.module_parameters.push((module.to_owned(), format!("{parameter}={value}")));
                }
            }
        }
        Ok(())
    }

    /// Whether it is clear what the image is to be verified by and what is to stand on it: a misspelt hash must not boot
    /// what it was to exclude, nor a misspelt layer a root without it.
    pub fn proofs(&self) -> Result<(), Failure> {
        self.unclear.first().and_then(Notice::failure).map_or(Ok(()), Err)
    }

    /// Every source that the operator named, of the image and of layers.
    pub fn sources_named(&self) -> impl Iterator<Item = &Source> {
        self.image.iter().chain(self.layers.iter().flat_map(|layer| &layer.sources))
    }

    /// The sources of the image, of which there is at least one.
    pub fn sources(&self) -> Result<&[Source], Failure> {
        if self.image.is_empty() {
            let missing = || {
                Failure::new(
                    Step::Settings,
                    "kernel command line",
                    "no rootbeam.image= says where the image is",
                    "append rootbeam.image=http://SERVER/IMAGE to the kernel command line",
                )
            };
            return Err(self.refused_image.as_ref().and_then(Notice::failure).unwrap_or_else(missing));
        }
        Ok(&self.image)
    }
}

/// Sources that are kept; further ones are left out.
const MAX_SOURCES: usize = 32;
/// resolv.conf(5) takes three.
const MAX_NAMESERVERS: usize = 3;

/// In place of dracut's `vlan=`.
const NO_VLAN: &str = "rootbeam makes no VLAN link; let the switch port give the VLAN untagged";
/// In place of dracut's `bond=`.
const NO_BOND: &str = "rootbeam makes no bond; it boots by one link of it (BOOTIF= chooses), which the switch must let \
                       work alone, and the booted system can make the bond";

/// What a hash is.
const DIGITS: &str = "64 hexadecimal digits";

fn hash(digits: &str) -> Option<Sha256> {
    Sha256::parse(digits).ok()
}

fn proof(expected: &str) -> Fault {
    Fault::Proof(Expected(expected.to_owned()))
}

/// A word without what may be a secret: headers, parts of URLs, and whatever stands behind a name that is nobody's and
/// may be a misspelt one of these.
fn public(word: &Word) -> String {
    let key = word.key().unwrap_or_default();
    let known = !key.starts_with("rootbeam.") || options::OPTIONS.iter().any(|option| option.name == key);
    match word.value {
        Some(_) if key == "rootbeam.header" || !known => format!("{key}={HIDDEN}"),
        _ => source::public(&String::from_utf8_lossy(&word.render())),
    }
}

/// The words of a line of a settings file, without what may be secret in them.
pub fn public_words(line: &str) -> String {
    cmdline::words(line.as_bytes()).iter().map(public).collect::<Vec<_>>().join(" ")
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// What `Settings` would say of a settings file before it is packed, a sentence a word that would be ignored.
pub fn check_words(file: &[u8]) -> Vec<String> {
    Settings::parse(file, b"").1.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
