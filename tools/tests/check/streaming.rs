//! Whether a boot would stream is told in its own words, and what in the system would cut the stream.

use crate::common::elf;
use crate::scene::{Scene, check, only};
use rootbeam_init::digest::Sha256;
use std::fs;
use std::path::Path;

const STREAM: &str = "rootbeam.mode=stream";

/// Level and text of what is said of streaming, and the exit code.
fn said(archive: &Path, words: &str, options: &[&str]) -> (i32, Vec<String>) {
    let (code, found) = check(archive, words, options, true);
    (code, found.into_iter().filter(|line| line.split(' ').nth(1) == Some("stream")).collect())
}

/// The image, which is said to be loaded before it is used.
fn loaded(level: &str, why: &str) -> Vec<String> {
    vec![format!("{level} stream The image is loaded before it is used: {why}.")]
}

pub fn an_image_and_a_layer_that_would_be_streamed_are_told_so_and_in_ram_mode_nothing_is_said() {
    let scene = Scene::new();
    scene.file("site/srv/site", b"site");
    scene.publish_as("site", "site", "zstd", &[]);
    scene.publish_as("web", "tree", "zstd", &["--layer", "site.squashfs"]);
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let base = format!("http://{}", server.address());
    let words = format!("rootbeam.image={base}/web.squashfs");
    let can = |what: &str| {
        format!("ok stream The {what} can be streamed: it has a hash for each of its chunks, and the kernel has fuse.")
    };
    let both = vec![can("image"), can(&format!("layer {base}/site.squashfs"))];
    assert_eq!(said(&archive, &format!("{words} {STREAM}"), &[]), (0, both.clone()));
    assert_eq!(said(&archive, &format!("{words} rootbeam.mode=auto"), &[]), (0, both.clone()));
    assert_eq!(said(&archive, &words, &[]), (0, vec![]));
    // The option may be packed, and what is read of a file here is not what the source vouches for.
    scene.file("config", STREAM.as_bytes());
    let packed = scene.pack(&["--config", &scene.text("config")]);
    assert_eq!(said(&packed, &words, &["--image", &scene.text("www/web.squashfs")]), (0, both));
    let unasked =
        "ok stream Whether the image can be streamed its manifest tells, which was not read; the kernel has fuse.";
    assert_eq!(said(&packed, &words, &["--offline"]).1, [unasked]);
}

pub fn why_an_image_would_not_be_streamed_is_told_as_a_warning_where_stream_is_demanded() {
    let scene = Scene::new();
    scene.publish("zstd");
    fs::copy(scene.path("www/web.squashfs"), scene.path("www/bare.squashfs")).unwrap();
    let server = scene.serve();
    let image = |name: &str| format!("rootbeam.image=http://{}/{name}.squashfs", server.address());
    let both = |archive: &Path, words: &str, why: &str| {
        let (code, found) = said(archive, &format!("{words} {STREAM}"), &[]);
        assert_eq!((code, found), (4, loaded("warning", why)), "{words}");
        assert_eq!(said(archive, &format!("{words} rootbeam.mode=auto"), &[]).1, loaded("ok", why), "{words}");
    };
    let archive = scene.pack(&[]);
    let no_hash = "it has no hash for each of its chunks; make a manifest with `rootbeam image manifest IMAGE` and put \
                   it beside the image";
    both(&archive, &image("bare"), no_hash);
    let pin = Sha256::of(&fs::read(scene.path("www/web.squashfs")).unwrap());
    let by_whole =
        "rootbeam.sha256= vouches for the whole of it alone; pin its manifest instead, by rootbeam.manifest=";
    both(&archive, &format!("{} rootbeam.sha256={pin}", image("web")), by_whole);

    // What a kernel without fuse says, and one that has it as a module that is refused.
    scene.file("kernel/lib/modules/6.1/modules.builtin", b"kernel/net/packet/af_packet.ko\n");
    let without = "kernel without fuse: it has the filesystem fuse neither built in nor as a module of this initramfs; \
                   use a kernel with fuse, or pack the module with `rootbeam pack --include-module fuse`";
    both(&scene.pack(&[]), &image("web"), without);
    let fuse = crate::elf(1, Some(&["alias=fs-fuse", "vermagic=6.1 SMP mod_unload "]));
    scene.file("kernel/lib/modules/6.1/kernel/fs/fuse/fuse.ko", &fuse);
    let archive = scene.pack(&[]);
    let refused = "fuse: the module is blacklisted; take fuse out of modprobe.blacklist= and rd.driver.blacklist= on the \
                   command line";
    both(&archive, &format!("{} modprobe.blacklist=fuse", image("web")), refused);
    assert_eq!(check(&archive, &format!("{} {STREAM}", image("web")), &[], false), (0, vec![]));
}

pub fn what_would_end_a_stream_is_warned_of_where_it_is_asked_for() {
    let scene = Scene::new();
    scene.file("tree/etc/init.d/tidy", b"#!/bin/sh\n# kill -9 -1\nkill -HUP 1\n");
    scene.publish("zstd");
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let image = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let streamed = format!("{image} {STREAM}");
    assert_eq!(check(&archive, &streamed, &[], false), (0, vec![]));

    scene.file("tree/etc/init.d/tidy", b"#!/bin/sh\nkill -TERM -1 || true # all\n");
    scene.publish("zstd");
    let line =
        "warning system Where /etc/init.d/tidy runs, it ends every process (kill -TERM -1 || true), and with them";
    only(check(&archive, &streamed, &[], false), 4, line);
    assert_eq!(check(&archive, &image, &[], false), (0, vec![]));

    // The init itself, by its link, where it is a script.
    scene.file("tree/etc/init.d/tidy", b"#!/bin/sh\nkillall5 -9 -o 7\n");
    scene.program("tree/sbin/begin", b"#!/bin/sh\nkillall5 -9\n");
    scene.program("tree/bin/sh", &elf(1, None));
    fs::remove_file(scene.path("tree/sbin/init")).unwrap();
    std::os::unix::fs::symlink("begin", scene.path("tree/sbin/init")).unwrap();
    scene.publish("zstd");
    only(check(&archive, &streamed, &[], false), 4, "Where /sbin/begin runs, it ends every process (killall5 -9)");

    scene.file("tree/sbin/begin", b"#!/bin/sh\n");
    let output = " chain o {\n  type filter hook output priority 0; policy drop;\n  oif lo accept\n }\n";
    scene.file("tree/etc/nftables.conf", format!("table inet f {{\n{output}}}\n").as_bytes());
    scene.file("tree/etc/systemd/system/sysinit.target.wants/nftables.service", b"");
    scene.publish("zstd");
    only(check(&archive, &streamed, &[], false), 4, "/etc/nftables.conf is enabled and drops what goes out");
    assert_eq!(check(&archive, &image, &[], false), (0, vec![]));
    // Without a server, from the file.
    let local = ["--offline", "--image", &scene.text("www/web.squashfs")];
    only(check(&archive, &streamed, &local, false), 4, "drops what goes out");
}
