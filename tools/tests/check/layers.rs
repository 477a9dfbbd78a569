//! Layers are asked, verified, weighed and looked into like the image that they stand on.

use crate::common::{elf, rootbeam, run, succeed};
use crate::scene::{Scene, check, only};
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::Manifest;
use std::fs;

/// A scene with the layers `site` and `node` published, and an image that names the first.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.file("site/srv/site", b"site");
    scene.file("node/srv/node", b"node");
    scene.publish_as("site", "site", "zstd", &[]);
    scene.publish_as("node", "node", "zstd", &[]);
    scene.publish_as("web", "tree", "zstd", &["--layer", "site.squashfs"]);
    scene
}

pub fn a_manifest_names_the_layers_that_it_was_told_and_a_wrong_name_writes_nothing() {
    let scene = scene();
    let manifest = || Manifest::parse(&fs::read(scene.path("www/web.squashfs.manifest")).unwrap()).unwrap();
    assert_eq!((manifest().version, manifest().layers), (1, vec!["site.squashfs".to_owned()]));
    let make = |layers: &[&str]| {
        let mut command = rootbeam();
        command.args(["--quiet", "image", "manifest"]).arg(scene.path("www/web.squashfs"));
        run(command.args(layers.iter().flat_map(|layer| ["--layer", layer])))
    };
    let (code, _, said) = make(&["../site.squashfs"]);
    assert!(code == 1 && said.contains("--layer takes the name of a file beside the image"), "{code} {said}");
    assert_eq!(manifest().version, 1);
    assert_eq!(make(&["latest.manifest", "site.squashfs"]).0, 0);
    assert_eq!(
        (manifest().version, manifest().layers),
        (2, ["latest.manifest", "site.squashfs"].map(str::to_owned).into())
    );
    // Each command says the whole, as for sources.
    assert_eq!(make(&[]).0, 0);
    assert_eq!((manifest().version, manifest().layers), (3, vec![]));
}

pub fn layers_of_manifest_and_options_are_asked_and_an_optional_one_may_be_absent() {
    let scene = scene();
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let url = |name: &str| format!("http://{}/{name}.squashfs", server.address());
    let words = format!("rootbeam.image={} rootbeam.layer={}", url("web"), url("node"));
    let (code, found) =
        check(&archive, &format!("{words} rootbeam.layer={}?optional", url("gone")), &["--ram", "1G"], true);
    assert_eq!(code, 0, "{found:#?}");
    let vouched =
        "It has 4.0 KiB by ranges. Its manifest, version 1, guards against damage, and no key against the server.";
    let expected = [
        format!("ok source {}: {vouched}", url("web")),
        format!("ok source layer {}: {vouched}", url("site")),
        format!("ok source layer {}: {vouched}", url("node")),
        format!("ok source layer {}: absent, and optional.", url("gone")),
    ];
    let sources: Vec<&String> = found.iter().filter(|line| line.starts_with("ok source ")).collect();
    assert_eq!(sources, expected.iter().collect::<Vec<_>>());
    let weighed = "ok memory The image with its 2 layers of 12.0 KiB fits: of 1.0 GiB about ";
    assert!(found.iter().any(|line| line.starts_with(weighed)), "{found:#?}");

    let (code, found) = check(&archive, &format!("{words} rootbeam.layer={}", url("gone")), &[], false);
    assert_eq!(code, 3);
    let remedy = "gone.squashfs: the server answered 404 Not Found; correct the path in rootbeam.layer=, or put the file \
                  there; behind its URL ?optional says that it may be missing.";
    assert!(found.len() == 1 && found[0].contains(remedy), "{found:#?}");
    let (code, found) = check(&archive, &format!("{words} rootbeam.layer={}?optional", url("{mac}")), &[], false);
    assert_eq!(code, 4);
    assert!(found[0].contains("{mac}.squashfs: It was not asked, since only a machine knows its {mac}."), "{found:#?}");

    fs::remove_file(scene.path("www/site.squashfs")).unwrap();
    let found = check(&archive, &format!("rootbeam.image={}", url("web")), &[], false);
    only(found, 3, "/site.squashfs: the server answered 404 Not Found; correct the path in the image's manifest");
}

pub fn a_layer_needs_memory_drivers_and_its_own_place() {
    let scene = scene();
    // Bytes that no compressor makes fewer of.
    let noise: Vec<u8> = (0..12 << 20 >> 5).flat_map(|n: u32| Sha256::of(&n.to_le_bytes()).0).collect();
    scene.file("noise/srv/noise", &noise);
    scene.publish_as("noise", "noise", "xz", &[]);
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let url = |name: &str| format!("http://{}/{name}.squashfs", server.address());
    let image = format!("rootbeam.image={}", url("web"));
    only(check(&archive, &image, &["--ram", "124M"], false), 4, "memory is tight");
    let (code, found) = check(&archive, &format!("{image} rootbeam.layer={}", url("noise")), &["--ram", "124M"], false);
    assert_eq!((code, found.len()), (3, 2), "{found:#?}");
    let lacking =
        format!("failure drivers The layer {} is compressed with xz, which the squashfs of kernel 6.1", url("noise"));
    assert!(found[0].starts_with(&lacking), "{found:#?}");
    assert!(
        found[1].starts_with("failure memory The image with its 2 layers: image of 12.0 MiB: it needs "),
        "{found:#?}"
    );
}

pub fn the_root_is_looked_at_with_its_layers() {
    let scene = scene();
    fs::remove_file(scene.path("tree/sbin/init")).unwrap();
    scene.publish("zstd");
    scene.program("node/sbin/init", &elf(1, None));
    scene.publish_as("node", "node", "zstd", &[]);
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let url = |name: &str| format!("http://{}/{name}.squashfs", server.address());
    let image = format!("rootbeam.image={}", url("web"));
    only(check(&archive, &image, &[], false), 3, "The image has no init (");
    assert_eq!(check(&archive, &format!("{image} rootbeam.layer={}", url("node")), &[], false), (0, vec![]));
}

pub fn the_packed_key_must_have_signed_layers_too_and_a_pin_vouches_for_none() {
    let scene = scene();
    let keygen = |name: &str| {
        let mut command = rootbeam();
        succeed(command.args(["--quiet", "keygen", "--no-password", name]).current_dir(scene.folder.path()));
    };
    let sign = |key: &str, image: &str| {
        let mut command = rootbeam();
        command.args(["--quiet", "sign", "-s"]).arg(scene.path(&format!("{key}.key")));
        succeed(command.arg(scene.path(&format!("www/{image}.squashfs.manifest"))));
    };
    keygen("good");
    keygen("other");
    // The image's manifest is of version 2, and a layer's own of version 1: the floor is the image's.
    scene.publish_as("web", "tree", "zstd", &["--layer", "site.squashfs"]);
    sign("good", "web");
    let archive = scene.pack(&["--key", &scene.text("good.pub"), "--min-version", "2"]);
    let server = scene.serve();
    let words = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let layer = "/site.squashfs: the manifest does not count: it is not signed, and this initramfs has a key packed";
    only(check(&archive, &words, &[], false), 3, layer);
    sign("other", "site");
    only(check(&archive, &words, &[], false), 3, "and by none of the trusted keys");
    fs::remove_file(scene.path("www/site.squashfs.manifest.minisig")).unwrap();
    sign("good", "site");
    assert_eq!(check(&archive, &words, &[], false), (0, vec![]));

    let pin = Sha256::of(&fs::read(scene.path("www/web.squashfs.manifest")).unwrap());
    let pinned = check(&scene.pack(&[]), &format!("{words} rootbeam.manifest=sha256:{pin}"), &[], false);
    only(pinned, 3, "it names layers, and the hash on the command line does not vouch for them; pack a key and sign");
}
