//! `rootbeam trace`, and what `rootbeam image manifest` makes of its result.

mod common;

use common::{IMAGE_HEAD, image, rootbeam, run, succeed};
use rootbeam_init::boot_order::{BootOrder, Subject};
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{CHUNK_SIZE, Manifest};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SIZE: usize = 5 * CHUNK_SIZE as usize + 1;

fn web() -> Vec<u8> {
    image(&[7; SIZE - IMAGE_HEAD])
}

/// An image and a trace of it.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        fs::write(scene.path("web.squashfs"), web()).unwrap();
        scene.trace("trace", &web(), &[4, 5, 0, 2]);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn trace(&self, name: &str, image: &[u8], chunks: &[u32]) {
        let subject = Subject { size: image.len() as u64, chunk_size: CHUNK_SIZE, sha256: Sha256::of(image) };
        fs::write(self.path(name), BootOrder { subject, chunks: chunks.to_vec() }.render()).unwrap();
    }

    fn manifest(&self) -> Manifest {
        Manifest::parse(&fs::read(self.path("web.squashfs.manifest")).unwrap()).unwrap()
    }

    fn make_manifest(&self, order: &str) -> (i32, String, String) {
        run(rootbeam()
            .args(["image", "manifest"])
            .arg(self.path("web.squashfs"))
            .arg("--boot-order")
            .arg(self.path(order)))
    }
}

fn order(path: &Path) -> Vec<u32> {
    BootOrder::parse(&fs::read_to_string(path).unwrap()).unwrap().chunks
}

#[test]
fn traces_become_an_order_and_that_a_part_of_the_manifest_and_of_what_is_published() {
    let scene = Scene::new();
    scene.trace("second", &web(), &[0, 4, 5, 1]);
    let traces = [scene.path("trace"), scene.path("second")];
    let (out, err) = succeed(rootbeam().arg("trace").args(&traces).arg("-o").arg(scene.path("order")));
    assert_eq!((out.as_str(), err.as_str()), ("", "5 chunks of 2 traces: 320.0 KiB of 320.0 KiB come first\n"));
    // Places 0+1, 1+2, 2+0; then what one has only.
    assert_eq!(order(&scene.path("order")), [4, 0, 5, 1, 2]);
    let (out, _) = succeed(rootbeam().arg("trace").args(&traces));
    assert_eq!(out, fs::read_to_string(scene.path("order")).unwrap());

    assert_eq!(scene.make_manifest("order").0, 0);
    assert_eq!(scene.manifest().boot_order, [4, 0, 5, 1, 2]);
    let (shown, _) = succeed(rootbeam().args(["image", "show"]).arg(scene.path("web.squashfs.manifest")));
    assert!(shown.contains("5 chunks (320.0 KiB) come first when it is streamed"), "{shown}");
    succeed(rootbeam().args(["image", "publish"]).arg(scene.path("web.squashfs")).arg(scene.path("www")));
    let published = Manifest::parse(&fs::read(scene.path("www/latest.manifest")).unwrap()).unwrap();
    assert_eq!(published.boot_order, [4, 0, 5, 1, 2]);

    // A trace is an order by itself, and a manifest that is made without one has none.
    assert_eq!(scene.make_manifest("trace").0, 0);
    assert_eq!(scene.manifest().boot_order, [4, 5, 0, 2]);
    succeed(rootbeam().args(["image", "manifest"]).arg(scene.path("web.squashfs")));
    assert_eq!(scene.manifest().boot_order, [0_u32; 0]);
}

#[test]
fn a_trace_of_another_image_is_refused_and_nothing_is_written() {
    let scene = Scene::new();
    scene.trace("other", &vec![8; SIZE], &[0]);
    let both = [scene.path("trace"), scene.path("other")];
    let (code, out, err) = run(rootbeam().arg("trace").args(&both).arg("-o").arg(scene.path("order")));
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("other is of another image than") && err.contains("SHA-256"), "{err}");
    assert!(!scene.path("order").exists());
    let (code, _, err) = scene.make_manifest("other");
    assert!(code == 3 && err.contains("is of another image") && err.contains("record a trace of this one"), "{err}");
    assert!(!scene.path("web.squashfs.manifest").exists() && !scene.path("web.squashfs.chunks").exists());
}

#[test]
fn what_is_no_trace_is_refused_with_where_one_comes_from() {
    let scene = Scene::new();
    let head = fs::read_to_string(scene.path("trace")).unwrap().lines().next().unwrap().to_owned();
    let beyond = format!("{head}\n3-6\n");
    for (text, part) in [
        ("<html>", "its first line is not `rootbeam-boot-order-1"),
        (beyond.as_str(), "line 2 is no chunk of this image"),
        (head.as_str(), "names no chunk"),
    ] {
        fs::write(scene.path("bad"), text).unwrap();
        let (code, _, err) = run(rootbeam().arg("trace").arg(scene.path("bad")));
        assert!(code == 1 && err.contains(part), "{err}");
        let (code, _, err) = scene.make_manifest("bad");
        assert!(code == 1 && err.contains(part), "{err}");
    }
    let (code, _, err) = run(rootbeam().arg("trace").arg(scene.path("nowhere")));
    assert!(code == 1 && err.contains("cannot open"), "{err}");
    assert_eq!(run(rootbeam().arg("trace")).0, 2);
}
