//! `rootbeam check`: what boots passes, and each thing that would not is named.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod layers;
#[path = "../../../init/tests/common/needs.rs"]
mod needs;
mod nginx;
mod scene;
mod streaming;

use common::{elf, rootbeam, run, succeed};
use scene::{Scene, check, only};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    needs::run(needs::tests! {
        needs::nothing =>
            a_machine_that_boots_passes_and_is_told_everything,
            wrong_options_and_memory_are_told,
            an_archive_that_cannot_boot_the_image_is_told,
            drivers_of_cards_from_outside_of_the_kernels_tree_are_counted,
            sources_that_fail_are_told_and_are_warnings_where_another_serves,
            an_image_that_stands_in_its_own_way_is_told,
            an_init_that_the_boot_refuses_is_told_in_its_words,
            the_files_alone_boot_as_far_as_can_be_told,
            a_server_without_ranges_is_a_warning,
            layers::a_manifest_names_the_layers_that_it_was_told_and_a_wrong_name_writes_nothing,
            layers::layers_of_manifest_and_options_are_asked_and_an_optional_one_may_be_absent,
            layers::a_layer_needs_memory_drivers_and_its_own_place,
            layers::the_root_is_looked_at_with_its_layers,
            layers::the_packed_key_must_have_signed_layers_too_and_a_pin_vouches_for_none,
            streaming::an_image_and_a_layer_that_would_be_streamed_are_told_so_and_in_ram_mode_nothing_is_said,
            streaming::why_an_image_would_not_be_streamed_is_told_as_a_warning_where_stream_is_demanded,
            streaming::what_would_end_a_stream_is_warned_of_where_it_is_asked_for;
        nginx::is_there =>
            access::a_server_that_demands_certificate_token_and_header_gets_them,
            access::only_a_packed_root_and_the_right_name_are_believed,
            access::a_certificate_that_fails_for_time_prints_both_times_and_a_pin_lets_it_pass,
            access::credentials_go_to_the_named_servers_alone_and_no_redirect_leaves_https,
            access::the_proxy_of_the_options_is_gone_through_and_no_other;
        minisign =>
            signatures_are_verified_with_the_packed_keys;
    })
}

fn minisign() -> Option<String> {
    needs::programs(&["minisign"])
}

fn a_machine_that_boots_passes_and_is_told_everything() {
    let scene = Scene::new();
    scene.publish("zstd");
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let url = format!("http://{}/web.squashfs", server.address());
    let words = format!("rootbeam.image={url} quiet");
    let (code, found) = check(&archive, &words, &["--ram", "1G"], true);
    assert_eq!(code, 0, "{found:#?}");
    let expected = [
        format!("ok options The image comes from {url}."),
        "ok archive It was packed for kernel 6.1; with --kernel FILE that is compared.".to_owned(),
        format!(
            "ok source {url}: It has 4.0 KiB by ranges. Its manifest, version 1, guards against damage, and no key against the server."
        ),
        "ok drivers It has loop, squashfs, overlay, af_packet (built in).".to_owned(),
        "ok drivers Its squashfs reads zstd, as the image needs.".to_owned(),
        "ok drivers Its network cards: virtio_net.".to_owned(),
        "ok system The real init is /sbin/init.".to_owned(),
        "ok system Nothing in it stands in its own way: no baked identity, no disk, no closed firewall.".to_owned(),
    ];
    let fits = |line: &&String| line.starts_with("ok memory The image of 4.0 KiB fits: of 1.0 GiB about ");
    assert_eq!(found.iter().filter(fits).count(), 1, "{found:#?}");
    assert_eq!(found.iter().filter(|line| !fits(line)).collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());

    // The same as lines, and the command line from a file.
    let line = scene.path("cmdline");
    fs::write(&line, format!("{words}\n")).unwrap();
    let mut command = rootbeam();
    command.args(["check", "--ram", "1G", "--cmdline"]).arg(&line).arg("--initramfs").arg(&archive);
    let (out, _) = succeed(&mut command);
    assert_eq!(out.lines().count(), expected.len() + 1);
    assert!(out.starts_with(&format!("ok       options  The image comes from {url}.\n")), "{out}");
}

fn wrong_options_and_memory_are_told() {
    let scene = Scene::new();
    scene.publish("zstd");
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let image = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let unknown = check(&archive, &format!("{image} rootbeam.imgae=x"), &[], false);
    only(unknown, 4, "unknown option rootbeam.imgae=*** is ignored; did you mean rootbeam.image?");
    only(check(&archive, &format!("{image} rootbeam.on-failure=shell"), &[], false), 4, "the archive has no shell");
    let blacklisted = check(&archive, &format!("{image} modprobe.blacklist=overlay"), &[], false);
    only(blacklisted, 3, "overlay is needed, and overlay is blacklisted");
    only(check(&archive, &image, &["--ram", "80M"], false), 3, "image of 4.0 KiB: it needs 24.0 MiB");
    only(check(&archive, &image, &["--ram", "200M"], false), 4, "memory is tight");
    let (code, found) = check(&archive, "quiet", &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("no rootbeam.image= says where the image is"), "{found:#?}");
    let (code, _, said) = run(rootbeam().args(["check", "--ram", "much", "--initramfs"]).arg(&archive));
    assert_eq!(code, 2, "{said}");
    let (code, _, said) = run(rootbeam().args(["check", "--initramfs", "/nothing"]));
    assert_eq!((code, said.contains("cannot read /nothing")), (1, true), "{said}");
}

fn an_archive_that_cannot_boot_the_image_is_told() {
    let scene = Scene::new();
    scene.publish("zstd");
    let server = scene.serve();
    let image = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let archive = scene.pack(&[]);
    // A kernel of another release.
    let mut kernel = vec![0; 0x400];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    kernel[0x300..0x306].copy_from_slice(b"6.12 (");
    scene.file("vmlinuz", &kernel);
    let vmlinuz = scene.path("vmlinuz");
    let (code, found) = check(&archive, &image, &["--kernel", vmlinuz.to_str().unwrap()], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("It has modules for kernel 6.1, and kernel 6.12 boots"), "{found:#?}");

    scene.publish("xz");
    only(check(&archive, &image, &[], false), 3, "compressed with xz, which the squashfs of kernel 6.1 lacks");

    scene.publish("zstd");
    fs::remove_file(scene.path("kernel/lib/modules/6.1/kernel/fs/squashfs/squashfs.ko")).unwrap();
    only(check(&scene.pack(&[]), &image, &[], false), 3, "The archive has no module squashfs");
    fs::write(scene.path("rubbish"), "rubbish").unwrap();
    only(check(&scene.path("rubbish"), &image, &[], false), 3, "neither a cpio archive nor a compression");
}

fn drivers_of_cards_from_outside_of_the_kernels_tree_are_counted() {
    let scene = Scene::new();
    fs::remove_file(scene.path("kernel/lib/modules/6.1/kernel/drivers/net/virtio_net.ko")).unwrap();
    let module = |path: &str, fields: &[&str]| {
        let fields = [fields, &["vermagic=6.1 SMP mod_unload "]].concat();
        scene.file(&format!("kernel/lib/modules/6.1/{path}"), &elf(1, Some(&fields)));
    };
    module("kernel/drivers/net/ethernet/intel/e1000e.ko", &["alias=pci:v1*"]);
    module("updates/dkms/e1000e.ko", &["alias=pci:v1*", "x=register_netdev"]);
    module("extra/ixgbe.ko", &["alias=pci:v2*", "x=register_netdev"]);
    module("extra/disk.ko", &["alias=pci:v3*"]);
    module("extra/tunnel.ko", &["alias=rtnl-link-tunnel", "x=register_netdevice"]);
    module("extra/radio.ko", &["alias=usb:v4*", "x=register_netdevice", "depends=cfg80211"]);
    module("kernel/net/wireless/cfg80211.ko", &[]);
    let include = ["ixgbe", "disk", "tunnel", "radio"].map(|name| ["--include-module", name]).concat();
    let words = "rootbeam.image=http://10.0.0.1/web.squashfs";
    let (_, found) = check(&scene.pack(&include), words, &["--offline"], true);
    assert!(found.contains(&"ok drivers Its network cards: e1000e, ixgbe.".to_owned()), "{found:#?}");
}

fn sources_that_fail_are_told_and_are_warnings_where_another_serves() {
    let scene = Scene::new();
    scene.publish("zstd");
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let base = format!("http://{}", server.address());
    let of = |paths: &[&str]| {
        let urls: Vec<String> = paths.iter().map(|path| format!("{base}/{path}")).collect();
        format!("rootbeam.image={}", urls.join(","))
    };
    let (code, found) = check(&archive, &of(&["gone.squashfs"]), &[], false);
    assert_eq!(code, 3);
    assert!(
        found[0].contains("gone.squashfs: the server answered 404 Not Found; correct the path in rootbeam.image="),
        "{found:#?}"
    );
    let both = check(&archive, &of(&["gone.squashfs", "web.squashfs"]), &[], false);
    only(both, 4, "The others serve.");
    let (code, found) = check(&archive, &of(&["index.html"]), &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("it looks like a web page"), "{found:#?}");
    let (code, found) = check(&archive, "rootbeam.image=http://127.0.0.1:1/web.squashfs", &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("the server refused the connection; start the web server"), "{found:#?}");

    let words = of(&["web.squashfs", "{mac}-{arch}.squashfs", "web.squashfs?s={serial}"]);
    let (code, found) = check(&archive, &words, &[], false);
    assert_eq!((code, found.len()), (4, 2), "{found:#?}");
    let unasked = [
        "{mac}-{arch}.squashfs: It was not asked, since only a machine knows its {mac} and {arch}.",
        "web.squashfs?s=***: It was not asked, since only a machine knows its {serial}.",
    ];
    for (line, part) in found.iter().zip(unasked) {
        assert!(line.ends_with(part), "{line}");
    }

    // A manifest names servers too.
    let folders = |port: u16| format!("http://127.0.0.1:{port}/");
    let (first, second) = (folders(server.address().port()), scene.serve());
    let told = [first, folders(second.address().port()), folders(1)];
    let more: Vec<&str> = told.iter().flat_map(|folder| ["--sources", folder]).collect();
    scene.publish_as("web", "tree", "zstd", &more);
    let (code, found) = check(&archive, &of(&["web.squashfs"]), &[], true);
    let about = |begin: &str| {
        found.iter().find(|line| line.starts_with(begin) && line.contains("named by the manifest of the image:"))
    };
    assert_eq!(
        (code, found.iter().filter(|line| line.contains("named by the manifest")).count()),
        (4, 2),
        "{found:#?}"
    );
    assert!(
        about(&format!("ok source {}web.squashfs, ", told[1]))
            .is_some_and(|line| line.ends_with(": It has 4.0 KiB by ranges.")),
        "{found:#?}"
    );
    let dead = about("warning source http://127.0.0.1:1/web.squashfs, ").unwrap();
    assert!(dead.contains("the server refused the connection; ") && dead.ends_with(" The others serve."), "{dead}");
    scene.publish("zstd");

    // Another image is published without its manifest.
    fs::copy(scene.path("www/web.squashfs"), scene.path("www/other.squashfs")).unwrap();
    let other = check(&archive, &of(&["other.squashfs"]), &[], false);
    only(other, 4, "The image is UNVERIFIED");
    let required = check(&archive, &format!("{} rootbeam.verify=require", of(&["other.squashfs"])), &[], false);
    assert!(required.1[0].contains("nothing vouches for the image"), "{required:#?}");
    fs::copy(scene.path("www/web.squashfs.manifest"), scene.path("www/other.squashfs.manifest")).unwrap();
    let (code, found) = check(&archive, &of(&["other.squashfs"]), &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("it has no chunk list"), "{found:#?}");
    fs::write(scene.path("www/other.squashfs.chunks"), [0; 32]).unwrap();
    let (_, found) = check(&archive, &of(&["other.squashfs"]), &[], false);
    assert!(found[0].contains("the chunk list is not the manifest's"), "{found:#?}");
    fs::write(scene.path("www/other.squashfs"), [0; 8192]).unwrap();
    let (_, found) = check(&archive, &of(&["other.squashfs"]), &[], false);
    assert!(found[0].contains("the image is refused: it is neither squashfs nor erofs"), "{found:#?}");
}

fn an_image_that_stands_in_its_own_way_is_told() {
    let scene = Scene::new();
    let closed = "table inet f {\n chain i {\n  type filter hook input priority 0; policy drop;\n }\n}\n";
    scene.file("tree/etc/nftables.conf", closed.as_bytes());
    scene.file("tree/etc/systemd/system/sysinit.target.wants/nftables.service", b"");
    scene.file("tree/etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    scene.file("tree/etc/ssh/ssh_host_ed25519_key", b"secret");
    fs::remove_file(scene.path("tree/sbin/init")).unwrap();
    scene.publish("zstd");
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let words = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let remote = check(&archive, &words, &[], false);
    assert_eq!(remote.0, 3);
    let said = remote.1.join("\n");
    for part in
        ["has no init (", "/etc/ssh/ssh_host_ed25519_key", "/etc/machine-id: empty", "firewall in /etc/nftables.conf"]
    {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    // The file tells the same, without a server.
    let image = scene.path("www/web.squashfs");
    let local = check(&archive, &words, &["--offline", "--image", image.to_str().unwrap()], false);
    assert_eq!(local, remote);
}

fn the_files_alone_boot_as_far_as_can_be_told() {
    let scene = Scene::new();
    scene.publish("zstd");
    let mut command = rootbeam();
    command.args(["check", "--offline", "--image"]).arg(scene.path("www/web.squashfs"));
    let (out, _) = succeed(command.arg("--initramfs").arg(scene.pack(&[])));
    assert!(out.starts_with("ok       options  No rootbeam.image= says where the image is; the files"), "{out}");
    assert!(out.contains("ok       system   The real init is /sbin/init.\n"), "{out}");
}

fn an_init_that_the_boot_refuses_is_told_in_its_words() {
    let scene = Scene::new();
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let words = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let mut foreign = elf(1, None);
    foreign[18] = 183;
    for (init, why) in [
        (&b""[..], "is empty"),
        (&foreign, "is a program for aarch64, this machine is x86_64"),
        (b"#!/usr/bin/perl -w\nexec 1;\n", "needs /usr/bin/perl, which is not there"),
    ] {
        scene.program("tree/sbin/init", init);
        scene.publish("zstd");
        let said = format!(
            "The image has no init (/sbin/init {why}; /etc/init is not there; /bin/init is not there; /bin/sh is not there)"
        );
        only(check(&archive, &words, &[], false), 3, &said);
    }
}

/// Serves `folder` like a web server that knows no ranges.
fn serve_whole(folder: &Path) -> String {
    let folder = folder.to_owned();
    let address = common::serve(move |mut stream, method, path, _| {
        let answer = match fs::read(folder.join(path)) {
            Ok(file) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len());
                [head.as_bytes(), if method == "HEAD" { b"" } else { file.as_slice() }].concat()
            }
            Err(_) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        };
        // The client may have seen enough.
        let _ = stream.write_all(&answer);
    });
    format!("http://{address}")
}

fn a_server_without_ranges_is_a_warning() {
    let scene = Scene::new();
    scene.publish("zstd");
    let archive = scene.pack(&[]);
    let base = serve_whole(&scene.path("www"));
    let image = scene.path("www/web.squashfs");
    let words = format!("rootbeam.image={base}/web.squashfs");
    let found = check(&archive, &words, &["--image", image.to_str().unwrap()], false);
    only(found, 4, "The server knows no ranges");
}

fn signatures_are_verified_with_the_packed_keys() {
    let scene = Scene::new();
    scene.publish("zstd");
    let minisign = |arguments: &[&str]| {
        let output = Command::new("minisign").args(arguments).current_dir(scene.folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for name in ["good", "other"] {
        minisign(&["-G", "-W", "-p", &format!("{name}.pub"), "-s", &format!("{name}.key")]);
    }
    let archive = scene.pack(&["--key", scene.path("good.pub").to_str().unwrap()]);
    let server = scene.serve();
    let words = format!("rootbeam.image=http://{}/web.squashfs", server.address());
    let first = |found: (i32, Vec<String>)| (found.0, found.1.first().cloned().unwrap_or_default());
    let (code, said) = first(check(&archive, &words, &[], false));
    assert!(
        code == 3
            && said.contains("the manifest does not count: it is not signed, and this initramfs has a key packed"),
        "{said}"
    );
    minisign(&["-S", "-s", "other.key", "-m", "www/web.squashfs.manifest"]);
    let (code, said) = first(check(&archive, &words, &[], false));
    assert!(code == 3 && said.contains("by none of the trusted keys"), "{said}");
    minisign(&["-S", "-s", "good.key", "-m", "www/web.squashfs.manifest"]);
    let (code, found) = check(&archive, &words, &[], true);
    assert_eq!(code, 0, "{found:#?}");
    assert!(found.iter().any(|line| line.contains("is signed by ")), "{found:#?}");
    // Another manifest under the same signature.
    succeed(rootbeam().args(["--quiet", "image", "manifest"]).arg(scene.path("www/web.squashfs")));
    let (code, said) = first(check(&archive, &words, &[], false));
    assert!(code == 3 && said.contains("it was altered since, or the signature is of another manifest"), "{said}");
}
