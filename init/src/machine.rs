//! What PID 1 knows over the whole boot, and the bookkeeping of it.

use crate::contract;
use crate::crew::Crew;
use crate::facts::Facts;
use crate::failure::{Failure, Step};
use crate::image::{Mounted, STATE};
use crate::journal::Journal;
use crate::label::Label;
use crate::layers::{Order, Proofs, Stack};
use crate::messages::{Lease, SourceIndex, SourceTally, Trust, Wanted};
use crate::modules::{self, Mismatch, Modules};
use crate::policy::Policy;
use crate::receive::{self, Held, Received};
use crate::report::{self, ImageReport, LayerReport, MemoryReport, NetworkReport, Report, Share, StepReport};
use crate::settings::source::Source;
use crate::settings::values::{Mode, human, mac_text};
use crate::settings::{Notice, Settings};
use crate::sys::loopdev::Reads;
use crate::sys::machine::{self, Kernel};
use crate::sys::tree::Root;
use crate::{causes, clock, image, keys, network, root, streaming};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the firmware says of the machine (SMBIOS).
const DMI: &str = "/sys/class/dmi/id";

/// One machine being booted.
pub struct Machine {
    /// The running kernel.
    pub kernel: Kernel,
    /// What the operator asked for.
    pub settings: Settings,
    /// Arguments for the real init: what the kernel handed to this one.
    pub arguments: Vec<OsString>,
    /// The log.
    pub journal: Journal,
    /// The kernel's modules.
    pub modules: Modules,
    /// The workers, between attempts.
    pub crew: Option<Crew>,
    /// The network, once there is one.
    pub lease: Option<Lease>,
    /// Image and layers as far as they came, over attempts.
    pub stack: Stack,
    /// The root, once it is assembled.
    pub mounted: Option<Mounted>,
    /// What will stand in report.json.
    pub report: Report,
}

/// A step that has begun.
#[derive(Debug)]
pub struct Begun {
    step: Step,
    at: Duration,
    available: u64,
}

/// What the archive's settings file and the kernel command line say.
pub fn read_settings() -> (Settings, Vec<Notice>) {
    let line = std::fs::read("/proc/cmdline").unwrap_or_default();
    let packed = std::fs::read(Path::new("/").join(contract::CONFIG)).unwrap_or_default();
    Settings::parse(&packed, &line)
}

impl Machine {
    /// Reads what the kernel and the archive say. The early mounts are there.
    pub fn wake(arguments: Vec<OsString>, journal: Journal) -> Result<Self, Failure> {
        let kernel = machine::kernel();
        let (settings, notices) = read_settings();
        journal.set_level(settings.log);
        log::info!("version {}, kernel {}", env!("CARGO_PKG_VERSION"), kernel.release);
        let policy = modules::Policy::new(&settings.blacklist, &settings.module_parameters);
        let stuck = Policy { on_failure: settings.on_failure, panic: settings.panic, shell: false }.after_panic();
        let modules = Modules::open(Path::new("/"), &kernel.release, policy)?.watched(stuck);
        let mut report = Report::new(&kernel.release);
        if let Ok(memory) = receive::measure() {
            report.memory =
                MemoryReport { total: memory.total, available_before: memory.available, ..MemoryReport::default() };
        }
        let mut machine = Self {
            settings,
            arguments,
            journal,
            modules,
            crew: None,
            lease: None,
            stack: Stack::default(),
            mounted: None,
            report,
            kernel,
        };
        notices.iter().map(Notice::to_string).for_each(|text| machine.warn(text));
        if let Some(text) = clock::raise_to_build() {
            log::info!("{text}");
        }
        Ok(machine)
    }

    /// Says a warning and keeps it for the report.
    pub fn warn(&mut self, text: String) {
        log::warn!("{text}");
        self.report.warnings.push(text);
    }

    /// A step begins.
    pub fn begin(&self, step: Step) -> Begun {
        Begun { step, at: machine::uptime(), available: receive::measure().map(|m| m.available).unwrap_or(0) }
    }

    /// A step ended well.
    pub fn end(&mut self, begun: Begun, what: String, bytes: u64) {
        let Begun { step, at, available } = begun;
        let took = machine::uptime().saturating_sub(at);
        let now = receive::measure().map(|m| m.available).unwrap_or(available);
        log::info!("{step}: {what} ({}.{:03} s)", took.as_secs(), took.subsec_millis());
        self.report.steps.push(StepReport {
            step,
            what,
            began_ms: report::milliseconds(at),
            took_ms: report::milliseconds(took),
            bytes,
            ram: available.saturating_sub(now),
        });
    }

    /// Loads the drivers of the devices that are there; says what it did.
    pub fn load_drivers(&mut self) -> String {
        if let Some(text) = self.modules.mismatch().map(|mismatch| format!("{mismatch}: {}", Mismatch::REMEDY)) {
            self.warn(text);
        }
        let summary = self.modules.coldplug();
        for failure in summary.failures {
            self.warn(failure.to_string());
        }
        // DHCP speaks through packet sockets.
        if let Err(failure) = self.modules.load("af_packet") {
            self.warn(failure.to_string());
        }
        // After the drivers: the clock chip's may be one of them.
        if let Some(text) = clock::raise_to_chip() {
            log::info!("{text}");
        }
        match summary.loaded.as_slice() {
            [] => "no driver needed".to_owned(),
            loaded => format!("loaded {}", loaded.join(" ")),
        }
    }

    /// Keeps the lease.
    pub fn take_lease(&mut self, lease: Lease) {
        self.report.network = Some(NetworkReport {
            link: lease.link.to_string(),
            mac: mac_text(lease.mac),
            address: lease.address,
            prefix: lease.prefix,
            gateway: lease.routes.iter().find(|route| route.prefix == 0).and_then(|route| route.gateway),
            dns: lease.dns.clone(),
            server: lease.server,
            lease_seconds: lease.seconds,
            hostname: lease.hostname.as_ref().map(Label::to_string),
        });
        self.lease = Some(lease);
    }

    /// Keeps what came of the network since the last call: turns of links for the report, and the lease that came last,
    /// on other terms maybe; whether one did.
    pub fn note_network(&mut self, crew: &mut Crew) -> bool {
        self.report.warnings.extend(crew.turned.drain(..).map(|turn| turn.to_string()));
        let lease = crew.lease.take();
        let came = lease.is_some();
        lease.into_iter().for_each(|lease| self.take_lease(lease));
        came
    }

    /// Goes on by another link: with its lease, and without the values of the one before for the words of the sources.
    pub fn turn(&mut self, crew: &mut Crew) {
        if self.note_network(crew) {
            self.lease.iter().for_each(|lease| log::info!("{}", network::describe(lease)));
        }
        let (Settings { image, layers, .. }, _) = read_settings();
        (self.settings.image, self.settings.layers) = (image, layers);
    }

    /// What the store is asked for.
    pub fn wanted(&self, order: &Order) -> Result<Wanted, Failure> {
        let kernel = Label::new(&self.kernel.release).map_err(|e| {
            let remedy = "use a kernel with a release of letters, digits and . _ + ~ -";
            Failure::new(Step::Settings, "release of the running kernel", e.to_string(), remedy)
        })?;
        let Proofs { sha256, manifest, anchors } = order.proofs(&self.settings, keys::packed(Path::new("/"))?);
        Ok(Wanted {
            sources: order.sources.iter().map(|source| source.as_str().to_owned()).collect(),
            sha256,
            manifest,
            require_verified: self.settings.require_verified,
            optional: order.optional,
            streams: self.settings.mode != Mode::Ram,
            anchors,
            kernel,
            stall_seconds: self.settings.stall,
        })
    }

    /// Puts this machine's values for the `{words}` of the sources; from then on these are what is shown.
    pub fn fill_sources(&mut self) -> Result<(), Failure> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let dmi = |name: &str| std::fs::read_to_string(Path::new(DMI).join(name)).unwrap_or_default();
        let (uuid, serial) = (dmi("product_uuid"), dmi("product_serial"));
        let facts = Facts::new(lease.mac, &uuid, &serial, lease.hostname.as_ref(), &self.kernel.machine);
        let fill = |sources: &mut [Source], option: &str| {
            sources.iter_mut().try_for_each(|source| {
                *source = source.fill(&facts).map_err(|unfilled| {
                    let remedy = format!("leave the word out of {option}=, or give the machine what it stands for");
                    Failure::new(Step::Settings, source.to_string(), unfilled.to_string(), remedy)
                })?;
                Ok(())
            })
        };
        fill(&mut self.settings.image, "rootbeam.image")?;
        self.settings.layers.iter_mut().try_for_each(|layer| fill(&mut layer.sources, "rootbeam.layer"))
    }

    /// Keeps what is known of the image, or of a layer; none is an absent one.
    pub fn take_image(&mut self, order: &Order, received: Option<&Received>) {
        if let Some(received) = received {
            if let Some(line) = received.facts.date.and_then(clock::raise_to_manifest) {
                log::info!("{line}");
            }
            self.take_verification(order, received);
            self.take_mode(order, received);
            self.report.warnings.extend(received.admitted.warning.clone());
            self.report.memory.overlay = received.admitted.overlay;
        }
        let sources = order.sources.iter().map(ToString::to_string).collect();
        let shares = received.map(|received| shares(order, received)).unwrap_or_default();
        let facts = received.map(|received| &received.facts);
        if order.is_layer() {
            return self.report.layers.push(LayerReport {
                sources,
                absent: received.is_none(),
                size: facts.map(|facts| facts.size),
                trust: facts.map(|facts| facts.trust),
                version: facts.and_then(|facts| facts.version),
                sha256: facts.and_then(|facts| facts.sha256),
                shares,
                device: None,
            });
        }
        let (Some(received), Some(facts)) = (received, facts) else { return };
        self.report.image = Some(ImageReport {
            sources,
            shares,
            filesystem: facts.filesystem,
            compressor: facts.compressor,
            size: facts.size,
            sha256: facts.sha256,
            trust: facts.trust,
            signers: facts.signers.clone(),
            manifest: facts.manifest,
            version: facts.version,
            tally: received.tally,
            device: None,
        });
        self.report.memory.available_before = received.before.available;
    }

    /// Keeps whether the image is streamed, and why not where that was asked for.
    fn take_mode(&mut self, order: &Order, received: &Received) {
        let mode = match received.held {
            Held::Streaming => Mode::Stream,
            Held::Whole { .. } => Mode::Ram,
        };
        // One image that is streamed makes a boot that streams.
        if self.report.mode != Some(Mode::Stream) {
            self.report.mode = Some(mode);
        }
        if let Held::Whole { because: Some(why) } = &received.held {
            let text = streaming::loaded_first(&order.name(), why);
            match self.settings.mode {
                Mode::Stream => self.warn(text),
                Mode::Ram | Mode::Auto => {
                    log::info!("{text}");
                    self.report.not_streamed.push(text);
                }
            }
        }
    }

    /// Says how well an image is vouched for. A root is vouched for as well as the weakest of its images.
    fn take_verification(&mut self, order: &Order, received: &Received) {
        let facts = &received.facts;
        let text = match order.is_layer() {
            true => format!("{} ({order})", report::verification(facts, None)),
            false => report::verification(facts, self.settings.manifest),
        };
        match facts.trust {
            Trust::Unverified => self.warn(text.clone()),
            _ => log::info!("{text}"),
        }
        let image = self.report.image.iter().map(|image| image.trust);
        let others = image.chain(self.report.layers.iter().filter_map(|layer| layer.trust));
        if others.max().is_none_or(|weakest| facts.trust > weakest) {
            self.report.verification = text;
        }
    }

    /// Makes a root of images that are whole: what is there from an attempt before is not made again.
    pub fn assemble(&mut self, crew: &Crew) -> Result<(Mounted, PathBuf), Failure> {
        if self.settings.stream_trace.is_some() {
            self.warn("no trace is recorded: the image is whole before the system reads of it".to_owned());
        }
        let mounted = match self.mounted.clone() {
            Some(mounted) => mounted,
            None => {
                let images = self.stack.images(crew);
                image::require_kernel(
                    images.iter().map(|(.., received)| received.facts.filesystem),
                    &mut self.modules,
                )?;
                let attached = |(_, memory, received)| Ok((image::attach(memory, Reads::InTurn)?, received));
                image::mount(&images.into_iter().map(attached).collect::<Result<Vec<_>, Failure>>()?)?
            }
        };
        self.mounted = Some(mounted.clone());
        let new_root = root::open()?;
        let init = root::find_init(&new_root, &self.settings, &self.kernel)?;
        if let Some(text) = root::check_modules(&new_root, &self.kernel, self.modules.are_loadable()) {
            self.warn(text);
        }
        self.dress(&new_root, self.lease.as_ref());
        Ok((mounted, init))
    }

    /// Ends the crew, or leaves those of it who complete the images that are streamed.
    pub fn part(&self, mut crew: Crew) -> Result<(), Failure> {
        let left = self.stack.streams.left(self.settings.stream_trace.is_some());
        if left.is_empty() {
            crew.dismiss()?;
            streaming::clear();
            return Ok(());
        }
        for whole in (0..crew.images().count()).filter(|number| !self.stack.streams.has(*number)) {
            crew.finish_image(whole)?;
        }
        let pids = crew.leave(&streaming::tools(&self.settings)?.descriptors(), left)?;
        streaming::spare(&pids);
        Ok(())
    }

    /// Puts this machine's identity into the new root, and what its lease says.
    pub fn dress(&self, new_root: &Root, lease: Option<&Lease>) {
        let product_uuid = std::fs::read_to_string(Path::new(DMI).join("product_uuid")).unwrap_or_default();
        if let Some(lease) = lease {
            root::dress(new_root, lease, &product_uuid);
        }
    }

    /// Keeps how often workers died.
    pub fn worker_restarts(&mut self, restarts: u32) {
        self.report.worker_restarts = restarts;
    }

    /// Writes report.json and boot.log where the booted system finds them.
    pub fn write_report(&mut self, mounted: &Mounted, init: &Path) {
        self.report.init = Some(init.display().to_string());
        let image = self.report.image.iter_mut().map(|image| &mut image.device);
        let layers = self.report.layers.iter_mut().filter(|layer| !layer.absent).map(|layer| &mut layer.device);
        for (place, device) in image.chain(layers).zip(&mounted.devices) {
            *place = Some(device.clone());
        }
        if let Ok(memory) = receive::measure() {
            self.report.memory.available_after = memory.available;
            log::info!("memory: {} of {} are free for the system", human(memory.available), human(memory.total));
        }
        self.save();
    }

    /// Writes the state so far.
    pub fn save(&self) {
        let state = Path::new(STATE);
        let written = std::fs::create_dir_all(state)
            .and_then(|()| std::fs::write(state.join("report.json"), self.report.render()))
            .and_then(|()| std::fs::write(state.join("boot.log"), self.journal.text()));
        if let Err(e) = written {
            log::warn!("{STATE}: report and log cannot be written: {e}");
        }
    }
}

/// What each source of an image did that was asked.
fn shares(order: &Order, received: &Received) -> Vec<Share> {
    let share = |(source, tally): (&SourceIndex, &SourceTally)| Share {
        source: causes::named(&order.sources, *source),
        fetched: tally.fetched,
        requests: tally.requests,
        failures: tally.failures,
        rejected_chunks: tally.rejected_chunks,
        trouble: tally.trouble.as_ref().map(causes::fetch_text),
    };
    received.sources.iter().map(share).collect()
}
