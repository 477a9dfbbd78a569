//! `rootbeam image publish`.

mod common;

use common::{image, rootbeam, run, succeed};
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::Manifest;
use rootbeam_init::trust::Anchors;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An image beside an empty folder to publish it in.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("www")).unwrap();
        Self { folder }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("web.squashfs")
    }

    fn www(&self) -> PathBuf {
        self.folder.path().join("www")
    }

    /// Publishes an image of these bytes; returns code, result and remarks.
    fn publish(&self, bytes: &[u8], options: &[&str]) -> (i32, String, String) {
        fs::write(self.image(), bytes).unwrap();
        self.publish_file(&self.image(), options)
    }

    fn publish_file(&self, image: &Path, options: &[&str]) -> (i32, String, String) {
        let mut command = rootbeam();
        command.env("SOURCE_DATE_EPOCH", "1700000000").args(["image", "publish"]).args(options);
        run(command.arg(image).arg(self.www()))
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.www()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn latest(&self) -> Manifest {
        Manifest::parse(&fs::read(self.www().join("latest.manifest")).unwrap()).unwrap()
    }
}

fn noise(seed: u32, size: usize) -> Vec<u8> {
    (0..size as u32).map(|n| ((n ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// An image with noise in it.
fn noisy(seed: u32, size: usize) -> Vec<u8> {
    image(&noise(seed, size))
}

fn name_of(bytes: &[u8]) -> String {
    format!("web-{}.squashfs", &Sha256::of(bytes).to_string()[..16])
}

#[test]
fn what_is_published_verifies_and_the_old_one_stays() {
    let scene = Scene::new();
    let (old, new) = (noisy(1, 300_000), noisy(2, 200_000));
    for (version, bytes) in [(1, &old), (2, &new)] {
        let (code, out, err) = scene.publish(bytes, &[]);
        assert_eq!(code, 0, "{err}");
        let name = name_of(bytes);
        let place = scene.www().join("latest.manifest");
        assert_eq!(out, format!("{}: version {version} of {name}; published\n", place.display()));
        assert_eq!(fs::read(scene.www().join(&name)).unwrap(), *bytes);
        assert_eq!((scene.latest().name, scene.latest().version), (name, version));
    }
    let of = |bytes| ["", ".chunks", ".manifest"].map(|suffix| format!("{}{suffix}", name_of(bytes)));
    let mut expected: Vec<String> = of(&old).into_iter().chain(of(&new)).chain(["latest.manifest".into()]).collect();
    expected.sort();
    assert_eq!(scene.names(), expected);
    for bytes in [&old, &new] {
        succeed(rootbeam().args(["image", "verify"]).arg(scene.www().join(name_of(bytes))));
    }
    // The same again changes nothing; with no older one to be kept the first goes.
    let (code, out, _) = scene.publish(&new, &["--json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["version"], &told["steps"]), (0, &2.into(), &serde_json::json!([])));
    assert_eq!(scene.publish(&new, &["--keep", "0"]).0, 0);
    let mut expected: Vec<String> = of(&new).into_iter().chain(["latest.manifest".into()]).collect();
    expected.sort();
    assert_eq!(scene.names(), expected);
}

#[test]
fn a_dry_run_prints_the_steps_and_writes_nothing() {
    let scene = Scene::new();
    let bytes = noisy(1, 100);
    let (code, out, _) = scene.publish(&bytes, &["--dry-run"]);
    let name = name_of(&bytes);
    let last = format!("{}: version 1 of {name}; nothing was done", scene.www().join("latest.manifest").display());
    let steps = format!("put {name}\nput {name}.chunks\nput {name}.manifest\nswap latest.manifest\n{last}\n");
    assert_eq!((code, out), (0, steps));
    assert_eq!(scene.names(), Vec::<String>::new());
}

#[test]
fn a_folder_that_is_not_there_is_made_and_a_missing_image_leaves_nothing() {
    let scene = Scene::new();
    fs::remove_dir(scene.www()).unwrap();
    assert_eq!(scene.publish(&image(b"image"), &[]).0, 0);
    assert_eq!(scene.names().len(), 4);
    let (code, _, said) = scene.publish_file(&scene.folder.path().join("nothing"), &[]);
    assert_eq!(code, 1);
    assert!(said.contains("cannot open the image"), "{said}");
    assert_eq!(scene.names().len(), 4);
}

#[test]
fn the_copy_is_another_file_and_a_link_the_same() {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    for (options, same) in [(&[][..], false), (&["--hard-link"][..], true)] {
        let scene = Scene::new();
        assert_eq!(scene.publish(&image(b"image"), options).0, 0);
        assert_eq!(inode(&scene.image()) == inode(&scene.www().join(name_of(&image(b"image")))), same);
        assert_eq!(scene.names().len(), 4);
    }
}

#[test]
fn two_publications_at_once_are_refused() {
    let scene = Scene::new();
    let folder = File::open(scene.www()).unwrap();
    flock(&folder, FlockOperation::LockExclusive).unwrap();
    let (code, _, said) = scene.publish(&image(b"image"), &[]);
    assert_eq!(code, 1);
    assert!(said.contains("another publication into"), "{said}");
    drop(folder);
    assert_eq!(scene.publish(&image(b"image"), &[]).0, 0);
}

#[test]
fn a_publication_that_is_killed_leaves_nothing_that_is_served_and_the_next_cleans_up() {
    use std::io::Write;
    let scene = Scene::new();
    assert_eq!(scene.publish(&image(b"old"), &[]).0, 0);
    let before = scene.names();
    // An image that comes through a pipe: once so much went in, most of it was read and copied, and not all.
    fs::remove_file(scene.image()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, scene.image(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut child = rootbeam().args(["image", "publish"]).arg(scene.image()).arg(scene.www()).spawn().unwrap();
    let mut pipe = File::options().write(true).open(scene.image()).unwrap();
    pipe.write_all(&noise(1, 4 << 20)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let left: Vec<String> = scene.names().into_iter().filter(|name| !before.contains(name)).collect();
    assert!(left.len() == 1 && left[0].starts_with(".rootbeam-publish-"), "{left:?}");
    assert_eq!(scene.latest().version, 1);
    fs::remove_file(scene.image()).unwrap();
    assert_eq!(scene.publish(&image(b"new"), &[]).0, 0);
    assert_eq!(scene.names().len(), 7, "{:?}", scene.names());
}

#[test]
fn damage_is_told_or_mended() {
    let scene = Scene::new();
    let bytes = noisy(3, 1000);
    assert_eq!(scene.publish(&bytes, &[]).0, 0);
    let published = scene.www().join(name_of(&bytes));
    let mut damaged = bytes.clone();
    damaged[700] ^= 1;
    fs::write(&published, &damaged).unwrap();
    let (code, _, said) = scene.publish_file(&published, &[]);
    assert_eq!(code, 3);
    assert!(said.contains("its SHA-256 is "), "{said}");
    // The source is whole: its copy takes the place of the damaged one.
    assert_eq!(scene.publish(&bytes, &[]).0, 0);
    assert_eq!(fs::read(&published).unwrap(), bytes);
    // A manifest of another image stands beside the source.
    succeed(rootbeam().args(["image", "manifest"]).arg(scene.image()));
    let (code, _, said) = scene.publish(&damaged, &[]);
    assert_eq!(code, 3);
    assert!(said.contains("not the one of the manifest beside it"), "{said}");
}

#[test]
fn a_staged_image_is_signed_and_then_published_with_its_signature() {
    let scene = Scene::new();
    let key = scene.folder.path().join("web");
    succeed(rootbeam().args(["keygen", "--no-password"]).arg(&key));
    let public = fs::read(key.with_extension("pub")).unwrap();
    let anchors = Anchors::new(&[("web.pub", &public)], None, None).unwrap();
    let read = |name: &str| fs::read(scene.www().join(name)).unwrap();

    let mut manifests: Vec<Vec<u8>> = Vec::new();
    for (version, bytes) in [(1, image(b"first")), (2, image(b"other"))] {
        let (code, out, said) = scene.publish(&bytes, &["--stage"]);
        let own = scene.www().join(format!("{}.manifest", name_of(&bytes)));
        assert_eq!(code, 0, "{said}");
        assert!(out.starts_with(&format!("{}: version {version} of ", own.display())), "{out}");
        succeed(rootbeam().arg("sign").arg(&own).arg("-s").arg(key.with_extension("key")));
        let (code, out, said) = scene.publish_file(&scene.www().join(name_of(&bytes)), &[]);
        assert_eq!(code, 0, "{said}");
        assert!(out.ends_with(", signed; published\n"), "{out}");
        manifests.push(read("latest.manifest"));
        assert_eq!(manifests.last(), Some(&fs::read(&own).unwrap()));
        // Whoever read the manifest before the swap reads the signatures after it, and the two belong together.
        for manifest in &manifests {
            assert!(anchors.signers(manifest, &read("latest.manifest.minisig")).is_ok());
        }
    }
    // With the key at hand in one go; and the same again is nothing new.
    let secret = key.with_extension("key");
    let with_key = ["--json", "--sign-key", secret.to_str().unwrap()];
    for steps in [6, 0] {
        let (code, out, said) = scene.publish(&image(b"third"), &with_key);
        let told: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{code} {e}: {said}"));
        assert_eq!((&told["version"], &told["signed"]), (&3.into(), &true.into()));
        assert_eq!(told["steps"].as_array().map(Vec::len), Some(steps), "{out}");
    }
    for manifest in [&manifests[1], &read("latest.manifest")] {
        assert!(anchors.signers(manifest, &read("latest.manifest.minisig")).is_ok());
    }
    let latest = scene.www().join("latest.manifest");
    succeed(rootbeam().args(["image", "verify"]).arg(&latest).arg("--key").arg(key.with_extension("pub")));

    let before = scene.names();
    let (code, _, said) = scene.publish(&image(b"unsigned"), &[]);
    assert_eq!(code, 1);
    assert!(said.contains("no node with a key would boot it"), "{said}");
    assert_eq!(scene.names(), before);
}

/// A scene with a key: what is published there is signed.
struct Signed {
    scene: Scene,
    public: Vec<u8>,
}

impl Signed {
    fn new() -> Self {
        let scene = Scene::new();
        let key = scene.folder.path().join("web");
        succeed(rootbeam().args(["keygen", "--no-password"]).arg(&key));
        Self { public: fs::read(key.with_extension("pub")).unwrap(), scene }
    }

    fn key(&self) -> String {
        self.scene.folder.path().join("web.key").display().to_string()
    }

    fn sign(&self, image: &[u8]) {
        let own = self.scene.www().join(format!("{}.manifest", name_of(image)));
        succeed(rootbeam().arg("sign").arg(own).args(["-s", &self.key()]));
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.scene.www().join(name)).unwrap()
    }

    /// Whether a machine with the key boots by the manifest in that file, or by these bytes, read a moment ago.
    fn boots(&self, file: &str, manifest: &[u8]) -> bool {
        let anchors = Anchors::new(&[("web.pub", &self.public)], None, None).unwrap();
        fs::read(self.scene.www().join(format!("{file}.minisig"))).is_ok_and(|s| anchors.signers(manifest, &s).is_ok())
    }

    /// Every file with its bytes.
    fn state(&self) -> Vec<(String, Vec<u8>)> {
        self.scene.names().into_iter().map(|name| (name.clone(), self.read(&name))).collect()
    }
}

#[test]
fn what_is_published_and_signed_stays_so_when_the_same_is_staged_or_published_again_from_its_own_path() {
    let desk = Signed::new();
    let (layer, main) = (image(b"layer"), image(b"main"));
    // A layer is staged and signed.
    assert_eq!(desk.scene.publish(&layer, &["--stage"]).0, 0);
    desk.sign(&layer);
    assert_eq!(desk.scene.publish(&main, &["--sign-key", &desk.key()]).0, 0);
    let before = desk.state();
    let (code, out, said) = desk.scene.publish(&layer, &["--stage", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{code} {e}: {said}"));
    assert_eq!((&told["version"], &told["signed"], &told["steps"]), (&1.into(), &true.into(), &serde_json::json!([])));
    assert_eq!(desk.state(), before);

    // An image is staged and signed, and then published by the path that it was built at.
    let next = image(b"next");
    assert_eq!(desk.scene.publish(&next, &["--stage"]).0, 0);
    desk.sign(&next);
    let (code, out, said) = desk.scene.publish(&next, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(out.ends_with(&format!("version 3 of {}, signed; published\n", name_of(&next))), "{out}");
    let latest = desk.read("latest.manifest");
    assert_eq!(latest, desk.read(&format!("{}.manifest", name_of(&next))));
    assert!(desk.boots("latest.manifest", &latest));
    // The same where nothing signed was the latest before.
    let first = Signed::new();
    assert_eq!(first.scene.publish(&next, &["--stage"]).0, 0);
    first.sign(&next);
    let (code, out, said) = first.scene.publish(&next, &[]);
    assert!(code == 0 && out.contains(": version 1 of ") && out.contains(", signed; published"), "{out} {said}");
}

#[test]
fn a_signature_goes_only_where_unsigned_is_said() {
    let desk = Signed::new();
    let bytes = image(b"image");
    assert_eq!(desk.scene.publish(&bytes, &["--stage"]).0, 0);
    desk.sign(&bytes);
    // Another kernel is another manifest.
    let manifest = desk.scene.folder.path().join("web.squashfs.manifest");
    succeed(rootbeam().args(["image", "manifest", "--kernel", "6.1"]).arg(desk.scene.image()));
    let before = desk.state();
    for options in [&[][..], &["--stage"]] {
        let (code, _, said) = desk.scene.publish(&bytes, options);
        let expected = "its signature is of version 1, and of this publication, version 2, there is none, so no node with \
                        a key would boot it: give --sign-key KEY; or, where the key is elsewhere, publish with --stage \
                        --unsigned --version 2, sign the manifest that it prints, and publish that image";
        assert!(code == 1 && said.contains(expected), "{code} {said}");
        assert_eq!(desk.state(), before);
    }
    // That way leads there.
    let own = format!("{}.manifest", name_of(&bytes));
    assert_eq!(desk.scene.publish(&bytes, &["--stage", "--unsigned", "--version", "2"]).0, 0);
    assert!(!desk.boots(&own, &desk.read(&own)));
    desk.sign(&bytes);
    let (code, out, said) = desk.scene.publish_file(&desk.scene.www().join(name_of(&bytes)), &[]);
    assert!(code == 0 && out.contains(": version 2 of ") && out.contains(", signed; published"), "{out} {said}");
    fs::remove_file(manifest).unwrap();
    assert_eq!(desk.scene.publish(&bytes, &["--unsigned"]).0, 0);
    assert_eq!(desk.scene.latest().version, 3);
    assert!(desk.scene.names().iter().all(|name| !name.ends_with(".minisig")), "{:?}", desk.scene.names());
}

#[test]
fn whoever_read_a_manifest_by_the_images_own_name_finds_its_signature_after_the_next_publication() {
    let desk = Signed::new();
    let (bytes, key) = (image(b"image"), desk.key());
    let own = format!("{}.manifest", name_of(&bytes));
    let mut read = Vec::new();
    for kernel in ["6.1", "6.12", "6.18"] {
        fs::write(desk.scene.image(), &bytes).unwrap();
        succeed(rootbeam().args(["image", "manifest", "--kernel", kernel]).arg(desk.scene.image()));
        assert_eq!(desk.scene.publish(&bytes, &["--sign-key", &key]).0, 0);
        read.push(desk.read(&own));
        for file in [own.as_str(), "latest.manifest"] {
            let boots: Vec<bool> = read.iter().map(|manifest| desk.boots(file, manifest)).collect();
            assert_eq!(boots, vec![true; read.len()], "{file}");
        }
    }
}

#[test]
fn an_earlier_image_is_published_again_as_the_next_version() {
    let scene = Scene::new();
    let (old, new) = (image(b"old"), image(b"new"));
    for bytes in [&old, &new] {
        assert_eq!(scene.publish(bytes, &[]).0, 0);
    }
    let place = scene.www().join(name_of(&old));
    let (code, out, said) = scene.publish_file(&place, &["--dry-run", "--version", "2"]);
    let expected = "version 2 does not follow version 2, which is published: nodes never go back; say --version 3 or more, \
                    or leave --version out";
    assert!(code == 1 && said.contains(expected), "{out} {said}");
    assert_eq!(scene.publish_file(&place, &[]).0, 0);
    assert_eq!((scene.latest().name, scene.latest().version), (name_of(&old), 3));

    let desk = Signed::new();
    for bytes in [&old, &new] {
        assert_eq!(desk.scene.publish(bytes, &["--sign-key", &desk.key()]).0, 0);
    }
    let place = desk.scene.www().join(name_of(&old));
    let before = desk.state();
    for options in [&[][..], &["--version", "3"]] {
        let (code, _, said) = desk.scene.publish_file(&place, options);
        let expected = "its signature is of version 1, and of this publication, version 3, there is none";
        assert!(code == 1 && said.contains(expected), "{said}");
        assert_eq!(desk.state(), before);
    }
    let (code, out, said) = desk.scene.publish_file(&place, &["--sign-key", &desk.key()]);
    assert!(code == 0 && out.contains(": version 3 of ") && out.contains(", signed; published"), "{out} {said}");
    assert!(desk.boots("latest.manifest", &desk.read("latest.manifest")));
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let scene = Scene::new();
    let odd = scene.folder.path().join("a b");
    fs::write(&odd, "image").unwrap();
    let (code, _, said) = scene.publish_file(&odd, &[]);
    assert_eq!(code, 1);
    assert!(said.contains("a b cannot be published under that name"), "{said}");
    assert_eq!(scene.names(), Vec::<String>::new());
}

#[test]
fn what_no_boot_would_mount_is_not_published_and_is_called_what_it_is() {
    let scene = Scene::new();
    let (code, _, said) = scene.publish(&noise(1, 100_000), &[]);
    let expected = "web.squashfs: it is neither squashfs nor erofs, it begins with [9e, 00, da, 3c]; a root image is a \
                    squashfs or erofs that is not compressed again";
    assert!(code == 1 && said.contains(expected), "{code} {said}");
    let (code, _, said) = scene.publish(&image(b"")[..100], &["--stage"]);
    assert!(code == 1 && said.contains("it has 100 bytes, its filesystem needs 128; copy it again"), "{code} {said}");
    assert_eq!(scene.names(), Vec::<String>::new());
}
