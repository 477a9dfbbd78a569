use super::super::super::digest::digest;
use super::*;

/// A folder that follows the plans made for it.
#[derive(Default)]
struct World {
    folder: Folder,
}

impl World {
    fn publish(&mut self, new: &New<'_>, wishes: Wishes) -> Result<Vec<String>, Refusal> {
        let plan = plan_for(new, wishes, &self.folder)?;
        self.carry_out(&plan, usize::MAX);
        Ok(plan.steps.iter().map(ToString::to_string).collect())
    }

    /// The first so many steps of a plan.
    fn carry_out(&mut self, plan: &Plan, steps: usize) {
        for step in plan.steps.iter().take(steps) {
            match step.clone() {
                Step::Image(name) => self.folder.names.push(name),
                Step::File(name, bytes) | Step::Swap(name, bytes) => {
                    self.folder.names.retain(|other| *other != name);
                    self.folder.names.push(name.clone());
                    self.folder.small.insert(name, bytes);
                }
                Step::Remove(name) => {
                    self.folder.names.retain(|other| *other != name);
                    self.folder.small.remove(&name);
                }
            }
        }
    }

    /// A staged image whose manifest was signed where it lies.
    fn signed<'a>(&mut self, digests: &'a Digests, signature: &str) -> New<'a> {
        let name = immutable_name("web.squashfs", &digests.sha256);
        let own = format!("{name}.manifest");
        let bytes = self.folder.small.get(&own).unwrap().clone();
        let signature = signature.as_bytes().to_vec();
        self.folder.names.push(format!("{own}.minisig"));
        self.folder.small.insert(format!("{own}.minisig"), signature.clone());
        let source = Source { manifest: Manifest::parse(&bytes).unwrap(), bytes };
        New { name: name.leak(), digests, manifest: Some(source), signature: Some(signature) }
    }

    fn latest(&self) -> Manifest {
        self.folder.latest().unwrap().unwrap()
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.folder.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

fn plan_for(new: &New<'_>, wishes: Wishes, folder: &Folder) -> Result<Plan, Refusal> {
    plan(new, choose(new, wishes, folder)?, None, wishes, folder)
}

fn digests(text: &str) -> Digests {
    digest(text.as_bytes(), manifest::CHUNK_SIZE, |_| ()).unwrap()
}

fn plain<'a>(name: &'a str, digests: &'a Digests) -> New<'a> {
    New { name, digests, manifest: None, signature: None }
}

/// With a manifest beside it that names these layers.
fn layered<'a>(name: &'a str, digests: &'a Digests, layers: &[&str]) -> New<'a> {
    let layers = layers.iter().map(|layer| (*layer).to_owned()).collect();
    let described = super::super::super::manifest::describe(name, digests, None, 0, 3, vec![]);
    let manifest = Manifest { layers, ..described };
    New { manifest: Some(Source { bytes: manifest.render().into_bytes(), manifest }), ..plain(name, digests) }
}

/// What reads as a signature; nobody verifies it here.
fn signature(of: &str) -> String {
    format!(
        "untrusted comment: signature from minisign secret key\n\
         RUQ/EDVLQA4LTuSXYLUOE55uPn56+Fr3JZO6MGj3HCwP+7l7MiVQjg9mFd/FYBvUtsNvgOjDQjnvHtxGSf42YIfQpvtBae2KAw8=\n\
         trusted comment: {of}\n\
         DpNcKSdiMgSxfj5MM9pBdFZwnSl297pKvk/24DJHbn/jLCt59O0td0zUhNl8n3AOFky7EeszbtrdM1+m0L6SAA==\n"
    )
}

const WISHES: Wishes = Wishes { version: None, keep: 1, date: 7, stage: false, unsigned: false };

/// The image `a`, `b` or `c` under its published name.
fn named(text: &str) -> String {
    immutable_name("web.squashfs", &digests(text).sha256)
}

#[test]
fn names_hold_the_hash_and_stay_what_they_are() {
    let hash = digests("a").sha256;
    let name = immutable_name("web.squashfs", &hash);
    assert_eq!(name, "web-ca978112ca1bbdca.squashfs");
    assert_eq!(immutable_name(&name, &hash), name);
    assert_eq!(immutable_name("image", &hash), "image-ca978112ca1bbdca");
    assert!(looks_immutable(&name) && !looks_immutable("web-amd64.squashfs") && !looks_immutable("web"));
    let other = digests("b").sha256;
    assert_eq!(immutable_name(&name, &other), "web-ca978112ca1bbdca-3e23e8160039594a.squashfs");
}

#[test]
fn the_latest_is_swapped_when_all_else_is_there() {
    let (mut world, a, b) = (World::default(), digests("a"), digests("b"));
    let name = named("a");
    let first = world.publish(&plain("web.squashfs", &a), WISHES).unwrap();
    let expected = [
        format!("put {name}"),
        format!("put {name}.chunks"),
        format!("put {name}.manifest"),
        "swap latest.manifest".to_owned(),
    ];
    assert_eq!(first, expected);
    assert_eq!((world.latest().name, world.latest().version), (name, 1));
    // The same again changes nothing, another date or not.
    let again = Wishes { date: 9, ..WISHES };
    assert_eq!(world.publish(&plain("web.squashfs", &a), again), Ok(vec![]));
    world.publish(&plain("web.squashfs", &b), WISHES).unwrap();
    assert_eq!((world.latest().name, world.latest().version), (named("b"), 2));
}

#[test]
fn older_versions_go_and_the_latest_and_strangers_never() {
    let mut world = World::default();
    for stranger in ["notes.txt", "web.squashfs.manifest", "web-0000000000000000.squashfs"] {
        world.folder.names.push(stranger.into());
        world.folder.small.insert(stranger.into(), b"{}".to_vec());
    }
    for text in ["a", "b", "c"] {
        world.publish(&plain("web.squashfs", &digests(text)), WISHES).unwrap();
    }
    let of = |text: &str| ["", ".chunks", ".manifest"].map(|suffix| format!("{}{suffix}", named(text)));
    let mut expected: Vec<String> = of("b").into_iter().chain(of("c")).collect();
    expected.extend(
        ["latest.manifest", "notes.txt", "web-0000000000000000.squashfs", "web.squashfs.manifest"].map(String::from),
    );
    expected.sort();
    assert_eq!(world.names(), expected);
    // An older image again: it becomes the latest by a version of its own, and the one before it stays.
    let back = world.publish(&plain("web.squashfs", &digests("b")), WISHES).unwrap();
    assert_eq!(back, [format!("put {}.manifest", named("b")), "swap latest.manifest".to_owned()]);
    assert_eq!((world.latest().name, world.latest().version), (named("b"), 4));
    // None is kept but what the latest names.
    let c = of("c");
    let last = world.publish(&plain("web.squashfs", &digests("b")), Wishes { keep: 0, ..WISHES }).unwrap();
    assert_eq!(last, c.map(|name| format!("remove {name}")));
}

#[test]
fn images_of_another_name_in_the_folder_are_no_older_versions() {
    let (mut world, site) = (World::default(), digests("site"));
    world.publish(&plain("site.squashfs", &site), Wishes { stage: true, ..WISHES }).unwrap();
    let other = immutable_name("site.squashfs", &site.sha256);
    for text in ["a", "b", "c", "d", "e", "f"] {
        world.publish(&plain("web.squashfs", &digests(text)), WISHES).unwrap();
    }
    let of = |name: &str| ["", ".chunks", ".manifest"].map(|suffix| format!("{name}{suffix}"));
    let mut expected = [of(&other), of(&named("e")), of(&named("f"))].concat();
    expected.push(LATEST.to_owned());
    expected.sort();
    assert_eq!(world.names(), expected);
    for (name, expected) in [("web.squashfs", "web"), ("web.erofs", "web"), ("web-amd64.squashfs", "web-amd64")] {
        assert_eq!(family(&immutable_name(name, &site.sha256), &site.sha256), Some(expected));
    }
}

#[test]
fn nothing_goes_that_the_latest_or_any_version_that_stays_is_stacked_with() {
    let mut world = World::default();
    let has = |world: &World, text: &str| {
        let found = ["", ".chunks", ".manifest"].map(|suffix| world.folder.has(&format!("{}{suffix}", named(text))));
        assert!(found.iter().all(|there| *there == found[0]), "{text}: {found:?}");
        found[0]
    };
    // What was an image is a layer now, by its own name, by its manifest's, and of one that is a layer itself.
    let publish = |world: &mut World, text: &str, layers: &[&str]| {
        world.publish(&layered("web.squashfs", &digests(text), layers), Wishes { keep: 0, ..WISHES }).unwrap()
    };
    publish(&mut world, "a", &[]);
    publish(&mut world, "b", &[&named("a")]);
    publish(&mut world, "c", &[&format!("{}.manifest", named("b"))]);
    assert!(["a", "b", "c"].into_iter().all(|text| has(&world, text)));
    // An alias is a manifest that stays, and so does the image of a layer that is one.
    let alias = world.folder.small.get(&format!("{}.manifest", named("c"))).unwrap().clone();
    world.folder.names.push("php.manifest".into());
    world.folder.small.insert("php.manifest".into(), alias);
    publish(&mut world, "d", &["php.manifest"]);
    assert!(["a", "b", "c", "d"].into_iter().all(|text| has(&world, text)));
    // An image of another name needs the same.
    let other = digests("site");
    let stage = Wishes { stage: true, ..WISHES };
    world.publish(&layered("site.squashfs", &other, &[&named("d")]), stage).unwrap();
    // Without the alias only that counts.
    world.folder.names.retain(|name| name != "php.manifest");
    world.folder.small.remove("php.manifest");
    publish(&mut world, "e", &[]);
    assert!(has(&world, "d") && has(&world, "e"));
    assert!(["a", "b", "c"].into_iter().all(|text| !has(&world, text)));
}

#[test]
fn a_layer_that_is_not_in_the_folder_is_refused() {
    let (mut world, web, site) = (World::default(), digests("web"), digests("site"));
    let layer = immutable_name("site.squashfs", &site.sha256);
    let new = layered("web.squashfs", &web, &[&layer]);
    for stage in [true, false] {
        let refused = world.publish(&new, Wishes { stage, ..WISHES });
        assert_eq!(refused, Err(Refusal::Layer(layer.clone())));
    }
    world.publish(&plain("site.squashfs", &site), Wishes { stage: true, ..WISHES }).unwrap();
    assert!(world.publish(&new, WISHES).is_ok());
}

#[test]
fn under_its_name_an_image_and_its_chunks_stay_and_its_manifest_is_replaced_by_the_next_version() {
    let (mut world, a, name) = (World::default(), digests("a"), named("a"));
    world.publish(&plain("web.squashfs", &a), WISHES).unwrap();
    let mut source = layered("web.squashfs", &a, &[]).manifest.unwrap().manifest;
    source.boot_order = vec![0];
    let ordered = || {
        let manifest = source.clone();
        New { manifest: Some(Source { bytes: manifest.render().into_bytes(), manifest }), ..plain("web.squashfs", &a) }
    };
    let replaced = [format!("put {name}.manifest"), "swap latest.manifest".to_owned()];
    assert_eq!(world.publish(&ordered(), WISHES).unwrap(), replaced);
    assert_eq!((world.latest().version, world.latest().boot_order), (2, vec![0]));
    assert_eq!(world.publish(&ordered(), WISHES), Ok(vec![]));
    // Staged it is replaced too, and a signature of the old one goes, where that is said.
    world.signed(&a, &signature("a"));
    let stage = Wishes { stage: true, ..WISHES };
    let refused = world.publish(&plain("web.squashfs", &a), stage);
    assert_eq!(refused, Err(Refusal::SignedVersion { signed: 2, wanted: 3 }));
    let staged = world.publish(&plain("web.squashfs", &a), Wishes { unsigned: true, ..stage }).unwrap();
    assert_eq!(staged, [format!("remove {name}.manifest.minisig"), format!("put {name}.manifest")]);
}

#[test]
fn versions_only_rise() {
    let (mut world, a, b) = (World::default(), digests("a"), digests("b"));
    let version = |version| Wishes { version: Some(version), ..WISHES };
    world.publish(&plain("web.squashfs", &a), version(40)).unwrap();
    for wanted in [0, 39, 40] {
        let refused = world.publish(&plain("web.squashfs", &b), version(wanted));
        assert_eq!(refused, Err(Refusal::Version { wanted, latest: 40 }));
    }
    world.publish(&plain("web.squashfs", &b), WISHES).unwrap();
    assert_eq!(world.latest().version, 41);
    world.publish(&plain("web.squashfs", &a), version(u64::MAX)).unwrap();
    assert_eq!(world.publish(&plain("web.squashfs", &b), WISHES), Err(Refusal::NoVersion));
}

#[test]
fn what_the_manifest_beside_the_image_says_is_published_too() {
    let (mut world, a) = (World::default(), digests("a"));
    let describe = super::super::super::manifest::describe;
    let manifest = describe("web.squashfs", &a, Some("6.1".into()), 12, 3, vec!["http://a/".into()]);
    let source = |manifest: Manifest| Source { bytes: manifest.render().into_bytes(), manifest };
    let new = New { manifest: Some(source(manifest.clone())), ..plain("web.squashfs", &a) };
    world.publish(&new, WISHES).unwrap();
    assert_eq!(world.latest(), Manifest { name: named("a"), date: 7, ..manifest.clone() });
    let b = digests("b");
    let stale = New { manifest: Some(source(manifest)), ..plain("web.squashfs", &b) };
    assert_eq!(world.publish(&stale, WISHES), Err(Refusal::Stale));
}

#[test]
fn a_signed_image_is_staged_then_signed_then_published() {
    let (mut world, a, b) = (World::default(), digests("a"), digests("b"));
    let name = named("a");
    let stage = Wishes { stage: true, ..WISHES };
    let staged = world.publish(&plain("web.squashfs", &a), stage).unwrap();
    assert_eq!(staged, ["", ".chunks", ".manifest"].map(|suffix| format!("put {name}{suffix}")));
    // Somebody signs; the published image is its own source now.
    let new = world.signed(&a, &signature("a"));
    let expected = ["swap latest.manifest.minisig", "swap latest.manifest"];
    assert_eq!(world.publish(&new, WISHES).unwrap(), expected);
    assert_eq!(world.folder.small.get("latest.manifest.minisig"), new.signature.as_ref());
    // A publication that was cut short between the two is finished by doing it again.
    world.folder.small.remove("latest.manifest");
    assert_eq!(world.publish(&new, WISHES).unwrap(), expected[1..]);
    assert_eq!(world.publish(&plain("web.squashfs", &a), WISHES), Ok(vec![]));

    assert_eq!(world.publish(&plain("web.squashfs", &b), WISHES), Err(Refusal::Unsigned));
    let loose = world.publish(&plain("web.squashfs", &b), Wishes { unsigned: true, ..WISHES }).unwrap();
    assert_eq!(loose[3..], ["swap latest.manifest", "remove latest.manifest.minisig"]);
}

#[test]
fn a_publication_that_was_cut_short_after_any_step_is_finished_by_running_it_again() {
    let (a, b) = (digests("a"), digests("b"));
    let sign = |new: &New<'_>, wishes, folder: &Folder| {
        let chosen = choose(new, wishes, folder).unwrap();
        let made = signature(&String::from_utf8_lossy(&chosen.bytes).replace('\n', " ")).into_bytes();
        plan(new, chosen, Some(made), wishes, folder).unwrap()
    };
    for version in [None, Some(2)] {
        let mut start = World::default();
        start.carry_out(&sign(&plain("web.squashfs", &a), WISHES, &start.folder), usize::MAX);
        let wishes = Wishes { version, ..WISHES };
        let whole = sign(&plain("web.squashfs", &b), wishes, &start.folder);
        for cut in 0..=whole.steps.len() {
            let mut world = World { folder: start.folder.clone() };
            world.carry_out(&whole, cut);
            let again = sign(&plain("web.squashfs", &b), Wishes { date: 9, ..wishes }, &world.folder);
            world.carry_out(&again, usize::MAX);
            assert_eq!((world.latest().name, world.latest().version), (named("b"), 2), "after {cut}");
            let own = format!("{}.manifest", named("b"));
            assert_eq!(world.folder.small.get(&own), world.folder.small.get(LATEST), "after {cut}");
            assert_eq!(world.names().len(), 10, "after {cut}");
        }
    }
}

#[test]
fn a_signature_that_is_going_is_never_taken_for_that_of_the_next_manifest() {
    let (mut world, a) = (World::default(), digests("a"));
    world.publish(&plain("web.squashfs", &a), Wishes { stage: true, ..WISHES }).unwrap();
    world.signed(&a, &signature("a"));
    let (changed, unsigned) = (layered("web.squashfs", &a, &[LATEST]), Wishes { unsigned: true, ..WISHES });
    world.folder.names.push(LATEST.into());
    let whole = plan_for(&changed, unsigned, &world.folder).unwrap();
    for cut in 0..=whole.steps.len() {
        let mut world = World { folder: world.folder.clone() };
        world.carry_out(&whole, cut);
        let again = plan_for(&changed, unsigned, &world.folder).unwrap();
        world.carry_out(&again, usize::MAX);
        assert!(!again.signed && !world.names().iter().any(|name| name.ends_with(SIGNATURE)), "after {cut}");
    }
}

#[test]
fn the_signature_file_signs_the_manifest_before_and_the_new_one() {
    let (mut world, stage) = (World::default(), Wishes { stage: true, ..WISHES });
    let mut file = String::new();
    for text in ["a", "b", "c", "a"] {
        let digests = digests(text);
        world.publish(&plain("web.squashfs", &digests), stage).unwrap();
        let new = world.signed(&digests, &signature(text));
        let steps = world.publish(&new, WISHES).unwrap();
        assert_eq!(steps[..2], ["swap latest.manifest.minisig", "swap latest.manifest"]);
        file = signature(text) + &file.replace(&signature(text), "");
        let found = world.folder.small.get("latest.manifest.minisig").unwrap();
        assert_eq!(String::from_utf8_lossy(found), file);
    }
    let many = signature("old").repeat(50);
    assert_eq!(followed(b"new", many.as_bytes()), format!("new\n{}", signature("old").repeat(8)).as_bytes());
    assert_eq!(followed(b"new\n", b"\xff"), b"new\n");
}

#[test]
fn a_signature_of_a_manifest_with_a_mutable_name_is_refused() {
    let a = digests("a");
    let manifest = super::super::super::manifest::describe("web.squashfs", &a, None, 1, 3, vec![]);
    let source = Source { bytes: manifest.render().into_bytes(), manifest };
    let new = New { manifest: Some(source), signature: Some(b"x".to_vec()), ..plain("web.squashfs", &a) };
    let refused = World::default().publish(&new, WISHES);
    assert_eq!(refused, Err(Refusal::SignedName { name: "web.squashfs".into() }));
}

#[test]
fn refuses_names_that_no_url_has_and_a_latest_that_it_cannot_read() {
    let a = digests("a");
    for bad in ["a b", ".hidden", "ä.squashfs", &"x".repeat(170)] {
        assert_eq!(plan_for(&plain(bad, &a), WISHES, &Folder::default()), Err(Refusal::Name(bad.to_owned())));
    }
    let mut folder = Folder::default();
    folder.small.insert(LATEST.into(), b"<html>".to_vec());
    assert!(matches!(plan_for(&plain("web", &a), WISHES, &folder), Err(Refusal::Latest(_))));
    let empty = digests("");
    let refused = plan_for(&plain("web", &empty), WISHES, &Folder::default());
    assert_eq!(refused, Err(Refusal::Manifest(manifest::Refusal::Empty)));
}
