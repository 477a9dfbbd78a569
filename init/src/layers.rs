//! The images of a boot: the image, then the layers that its manifest names, then those of the command line. They are
//! begun one after another, each when the one before is whole or can be streamed, and each stands above those before it.

use crate::causes;
use crate::crew::Crew;
use crate::digest::Sha256;
use crate::failure::{Failure, Step};
use crate::label::Label;
use crate::manifest::MAX_LAYERS;
use crate::messages::{FetchCause, StoreCause, Tally, Trust, Wanted};
use crate::modules::Modules;
use crate::receive::{Arrival, Download, Held, Received};
use crate::settings::Settings;
use crate::settings::source::Source;
use crate::streaming::attendant::Attendant;
use crate::streaming::streams::Streams;
use crate::trust::Anchors;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// Who asked for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedBy {
    /// `rootbeam.image=`: it is the image.
    Image,
    /// The image's manifest.
    Manifest,
    /// `rootbeam.layer=`.
    Layer,
}

/// One image that the boot wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Where it is, best source first.
    pub sources: Vec<Source>,
    /// Whether the boot goes on without it where no source has it.
    pub optional: bool,
    /// Who asked for it.
    pub asked_by: AskedBy,
}

/// What came, over attempts.
#[derive(Debug, Default)]
pub struct Stack {
    /// One an order that is done; none where it is absent.
    done: Vec<Option<Received>>,
    /// The one that is under way.
    download: Download,
    /// Those of them that are streamed.
    pub streams: Streams,
}

impl Stack {
    /// The order that is next; none where all are done.
    pub fn next(&self, settings: &Settings) -> Result<Option<Order>, Failure> {
        match self.done.split_first() {
            Some((Some(image), layers)) => {
                let orders = layers_of(settings, image.facts.trust, &image.facts.layers)?;
                Ok(orders.into_iter().nth(layers.len()))
            }
            _ => Ok(Some(Order::image(settings))),
        }
    }

    /// Carries `order` out, or goes on where the last call stopped.
    pub fn run(
        &mut self,
        crew: &mut Crew,
        modules: &mut Modules,
        settings: &Settings,
        (order, wanted): (&Order, &Wanted),
        deadline: Option<Instant>,
    ) -> Result<Arrival, Failure> {
        let number = self.done.len();
        if let Some(previous) = number.checked_sub(1).filter(|previous| !self.streams.has(*previous)) {
            crew.finish_image(previous)?;
        }
        crew.turn_to_image(number)?;
        let arrival =
            self.download.run(crew, modules, settings, (number, order, wanted), &mut self.streams, deadline)?;
        let Arrival::Image(received) = &arrival else {
            self.download = self.download.anew();
            crew.begin_anew(number)?;
            return Ok(arrival);
        };
        self.download = Download::default();
        if let Some(Received { facts, tally, held: Held::Streaming, .. }) = received.as_deref() {
            let tally = Tally { total: facts.size, ..*tally };
            let kernel = wanted.kernel.to_string();
            self.streams.add(number, Attendant::new(order.name(), order.sources.clone(), kernel, tally));
        }
        self.done.push(received.as_deref().cloned());
        Ok(arrival)
    }

    /// The images that came, each with its number and its memory, the topmost last.
    pub fn images<'a>(&'a self, crew: &'a Crew) -> Vec<(usize, BorrowedFd<'a>, &'a Received)> {
        let images = crew.images().zip(&self.done).enumerate();
        images.filter_map(|(number, (memory, received))| Some((number, memory, received.as_ref()?))).collect()
    }
}

/// What one image is held against, beside what stands in its own manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proofs {
    /// The SHA-256 that it must have.
    pub sha256: Option<Sha256>,
    /// The SHA-256 that its manifest must have.
    pub manifest: Option<Sha256>,
    /// Who must have signed the manifest.
    pub anchors: Anchors,
}

impl Order {
    /// That of the image.
    pub fn image(settings: &Settings) -> Self {
        Self { sources: settings.image.clone(), optional: false, asked_by: AskedBy::Image }
    }

    /// What it is held against where these keys are packed: the hashes of the command line and the version floor are the
    /// image's alone.
    pub fn proofs(&self, settings: &Settings, anchors: Anchors) -> Proofs {
        match self.is_layer() {
            true => Proofs { anchors: anchors.without_floor(), ..Proofs::default() },
            false => Proofs { sha256: settings.sha256, manifest: settings.manifest, anchors },
        }
    }

    /// What it is called where its sources need not be told.
    pub fn name(&self) -> String {
        match self.is_layer() {
            true => self.to_string(),
            false => "image".to_owned(),
        }
    }

    /// Whether it stands on the image.
    pub fn is_layer(&self) -> bool {
        self.asked_by != AskedBy::Image
    }

    /// What a step that carried it out did.
    pub fn outcome(&self, received: Option<&Received>) -> String {
        match received {
            Some(Received { facts, tally, held: Held::Streaming, .. }) => {
                format!("{} of {} bytes from {self}; the rest comes while it is used", tally.verified, facts.size)
            }
            Some(received) if self.is_layer() => format!("{} bytes of {self}", received.facts.size),
            Some(received) => format!("{} bytes from {self}", received.facts.size),
            None => format!("{self}: absent"),
        }
    }

    /// The failure by `cause`; for a layer with a remedy that speaks of the layer.
    pub fn failure(&self, cause: &StoreCause, running_kernel: &str) -> Failure {
        let failure = causes::store(cause, &self.sources, running_kernel);
        let remedy = match cause {
            StoreCause::Unverified if self.is_layer() => {
                "make a manifest with `rootbeam image manifest IMAGE` beside the layer".to_owned()
            }
            StoreCause::Fetch { cause: FetchCause::Status { status: 404 | 410, .. }, .. }
                if self.asked_by == AskedBy::Layer =>
            {
                format!("{}; behind its URL ?optional says that it may be missing", self.worded(&failure.remedy))
            }
            _ => self.worded(&failure.remedy),
        };
        Failure { remedy, ..failure }
    }

    /// The failure of admission; for a layer one that names it.
    pub fn refused_size(&self, failure: Failure) -> Failure {
        if !self.is_layer() {
            return failure;
        }
        let Failure { object, cause, remedy, .. } = &failure;
        let object = object.replace("image", &self.to_string());
        let (cause, remedy) = (cause.replace("image", "layer"), remedy.replace("an image", "a layer"));
        Failure { object, cause, remedy, ..failure }
    }

    /// A text about the image with the word that names this one.
    pub fn worded(&self, text: &str) -> String {
        match self.asked_by {
            AskedBy::Image => text.to_owned(),
            AskedBy::Manifest => text.replace("rootbeam.image=", "the image's manifest"),
            AskedBy::Layer => text.replace("rootbeam.image=", "rootbeam.layer="),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_layer(), self.sources.as_slice()) {
            (true, [first, ..]) => write!(f, "layer {first}"),
            (false, [only]) => write!(f, "{only}"),
            (_, several) => write!(f, "{} sources", several.len()),
        }
    }
}

/// The layers over an image whose manifest names these and is vouched for so, the topmost last.
pub fn layers_of(settings: &Settings, trust: Trust, named: &[Label]) -> Result<Vec<Order>, Failure> {
    let manifest = || format!("manifest of {}", causes::named(&settings.image, 0));
    if !named.is_empty() && trust == Trust::Pinned {
        return Err(Failure::new(
            Step::Manifest,
            manifest(),
            "it names layers, and the hash on the command line does not vouch for them",
            "pack a key and sign the manifests of image and layers, or ask for the layers by rootbeam.layer=",
        ));
    }
    let (of_manifest, asked) = (named.len(), settings.layers.len());
    if of_manifest + asked > MAX_LAYERS {
        return Err(Failure::new(
            Step::Settings,
            format!("{} layers", of_manifest + asked),
            format!(
                "at most {MAX_LAYERS} stand on an image; its manifest names {of_manifest}, the command line {asked}"
            ),
            "put several layers into one",
        ));
    }
    let mut orders = Vec::new();
    for name in named {
        let sources = settings.image.iter().map(|source| source.beside(name)).collect::<Result<_, _>>();
        let sources = sources.map_err(|expected| {
            Failure::new(
                Step::Manifest,
                manifest(),
                format!("its layer {name} is not {expected}"),
                "correct its layers",
            )
        })?;
        orders.push(Order { sources, optional: false, asked_by: AskedBy::Manifest });
    }
    orders.extend(settings.layers.iter().map(|layer| Order {
        sources: layer.sources.clone(),
        optional: layer.optional,
        asked_by: AskedBy::Layer,
    }));
    Ok(orders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Admitted, Memory};
    use crate::messages::ImageFacts;
    use crate::report::tests::facts;

    fn settings(line: &str) -> Settings {
        Settings::parse(b"", line.as_bytes()).0
    }

    fn labels(names: &[&str]) -> Vec<Label> {
        names.iter().map(|name| Label::new(name).unwrap()).collect()
    }

    fn image(trust: Trust, layers: &[&str]) -> ImageFacts {
        ImageFacts { layers: labels(layers), ..facts(trust, &[]) }
    }

    fn received(facts: ImageFacts) -> Received {
        Received {
            facts,
            tally: Tally::default(),
            sources: Default::default(),
            admitted: Admitted { overlay: 0, warning: None },
            before: Memory { total: 0, available: 0, given_back: 0, ring: 0 },
            held: Held::Whole { because: None },
        }
    }

    #[test]
    fn the_image_comes_first_then_its_manifests_layers_then_the_command_lines() {
        let settings = settings(
            "rootbeam.image=http://a/x/web.img,http://b/web.img?k=1 rootbeam.layer=http://c/one.img?optional \
             rootbeam.layer=http://d/two.img",
        );
        let mut stack = Stack::default();
        let mut orders = Vec::new();
        while let Some(order) = stack.next(&settings).unwrap() {
            orders.push((
                order.sources.iter().map(|s| s.as_str().to_owned()).collect::<Vec<_>>().join(" "),
                order.optional,
            ));
            // What comes for a layer, or that nothing does, changes nothing in what follows.
            let first = stack.done.is_empty();
            stack.done.push(first.then(|| received(image(Trust::Signed, &["site.img", "more.manifest"]))));
        }
        let expected = [
            ("http://a/x/web.img http://b/web.img?k=1", false),
            ("http://a/x/site.img http://b/site.img?k=1", false),
            ("http://a/x/more.manifest http://b/more.manifest?k=1", false),
            ("http://c/one.img", true),
            ("http://d/two.img", false),
        ];
        assert_eq!(orders, expected.map(|(sources, optional)| (sources.to_owned(), optional)));
    }

    #[test]
    fn layers_that_a_pin_does_not_vouch_for_are_refused() {
        let settings = settings("rootbeam.image=http://a/web.img");
        let failure = layers_of(&settings, Trust::Pinned, &labels(&["site.img"])).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "FAILED at manifest: manifest of http://a/web.img: it names layers, and the hash on the command line does \
             not vouch for them. Remedy: pack a key and sign the manifests of image and layers, or ask for the layers \
             by rootbeam.layer=."
        );
        assert_eq!(layers_of(&settings, Trust::Pinned, &[]), Ok(vec![]));
    }

    #[test]
    fn no_more_than_eight_stand_on_an_image() {
        let settings = settings(&format!("rootbeam.image=http://a/web.img {}", "rootbeam.layer=http://a/l ".repeat(7)));
        assert_eq!(layers_of(&settings, Trust::Signed, &labels(&["1"])).map(|orders| orders.len()), Ok(8));
        let failure = layers_of(&settings, Trust::Signed, &labels(&["1", "2"])).unwrap_err();
        assert_eq!(failure.object, "9 layers");
        assert_eq!(failure.cause, "at most 8 stand on an image; its manifest names 2, the command line 7");
    }

    #[test]
    fn a_failure_speaks_of_the_word_that_asked() {
        let order = |asked_by| Order { sources: vec![Source::parse("http://a/l").unwrap()], optional: false, asked_by };
        let missing = StoreCause::Fetch { source: 0, cause: FetchCause::Status { status: 404, retry_after: None } };
        let remedy = |asked_by| order(asked_by).failure(&missing, "6.1").remedy;
        assert_eq!(remedy(AskedBy::Image), "correct the path in rootbeam.image=, or put the file there");
        assert_eq!(remedy(AskedBy::Manifest), "correct the path in the image's manifest, or put the file there");
        assert_eq!(
            remedy(AskedBy::Layer),
            "correct the path in rootbeam.layer=, or put the file there; behind its URL ?optional says that it may be \
             missing"
        );
    }
}
