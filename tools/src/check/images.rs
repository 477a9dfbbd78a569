//! The images of a boot, asked for in its order: the image, then the layers of its manifest and of the command line.

use super::ask;
use super::source::{Demands, Image, judge, judge_named};
use super::verdict::{About, Verdict};
use rootbeam_init::facts::Facts;
use rootbeam_init::fetch::client::Client;
use rootbeam_init::layers::{Order, layers_of};
use rootbeam_init::messages::Trust;
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::source::Source;
use rootbeam_init::trust::Anchors;

const SOURCE: About = About::Source;

/// Those that were found.
#[derive(Debug, Default)]
pub struct Images {
    /// The image.
    pub image: Option<Image>,
    /// What stands on it, the topmost last.
    pub layers: Vec<Image>,
}

impl Images {
    /// All of them.
    pub fn all(&self) -> Vec<&Image> {
        self.image.iter().chain(&self.layers).collect()
    }
}

/// Asks for all of them.
pub fn ask(client: &Client, anchors: Anchors, settings: &Settings, release: Option<&str>) -> (Vec<Verdict>, Images) {
    if settings.image.is_empty() {
        // Said of the options already.
        return Default::default();
    }
    let asker = Asker { client, settings, anchors, release };
    let (mut verdicts, order) = askable(Order::image(settings));
    let (about_image, image) = asker.ask(&order);
    verdicts.extend(about_image);

    // What a manifest names lies beside the sources that could be asked for it.
    let known = Settings { image: order.sources, ..settings.clone() };
    let (trust, named) = image.as_ref().map_or((Trust::Unverified, &[][..]), |image| (image.trust, &image.layers));
    let orders = layers_of(&known, trust, named).unwrap_or_else(|failure| {
        verdicts.push(SOURCE.failure(format!("{}: {}; {}.", failure.object, failure.cause, failure.remedy)));
        Vec::new()
    });
    let mut layers = Vec::new();
    for order in orders {
        let (unasked, order) = askable(order);
        let (about_layer, layer) = asker.ask(&order);
        verdicts.extend(unasked.into_iter().chain(about_layer));
        layers.extend(layer);
    }
    (verdicts, Images { image, layers })
}

/// What every image is asked for with.
struct Asker<'a> {
    client: &'a Client,
    settings: &'a Settings,
    anchors: Anchors,
    release: Option<&'a str>,
}

impl Asker<'_> {
    fn ask(&self, order: &Order) -> (Vec<Verdict>, Option<Image>) {
        if order.sources.is_empty() {
            return Default::default();
        }
        let proofs = order.proofs(self.settings, self.anchors.clone());
        let signature = proofs.anchors.demand_signatures();
        let answers: Vec<_> =
            order.sources.iter().map(|source| ask::ask(self.client, source.as_str(), signature)).collect();
        let require_verified = self.settings.require_verified;
        let demands = Demands { order, proofs: &proofs, require_verified, release: self.release };
        let (mut verdicts, image) = judge(&answers, &demands);
        if let Some(image) = &image {
            let known = |url: &String| answers.iter().any(|answer| answer.image == *url);
            let named = image.named.iter().filter(|url| !known(url));
            verdicts.extend(named.map(|url| judge_named(url, ask::first(self.client, url), image)));
        }
        (verdicts, image)
    }
}

/// The order without the sources whose words only a machine can fill in, and what is to be said of these.
fn askable(order: Order) -> (Vec<Verdict>, Order) {
    let (mut verdicts, mut sources) = (Vec::new(), Vec::new());
    let layer = if order.is_layer() { "layer " } else { "" };
    for source in order.sources {
        match source.fill(&Facts::default()) {
            Ok(_) => sources.push(source),
            Err(_) => verdicts.push(unasked(layer, &source)),
        }
    }
    (verdicts, Order { sources, ..order })
}

fn unasked(layer: &str, source: &Source) -> Verdict {
    let words = source.words().map(|word| format!("{{{word}}}")).collect::<Vec<_>>().join(" and ");
    SOURCE.warning(format!("{layer}{source}: It was not asked, since only a machine knows its {words}."))
}
