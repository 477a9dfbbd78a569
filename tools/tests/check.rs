//! `rootbeam check`: what boots passes, and each thing that would not is named.

mod common;

use common::{elf, rootbeam, run, serve_tls, succeed};
use rootbeam::serve::log::Log;
use rootbeam::serve::server::Server;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A kernel's modules, an image published in `www`, and room for what is packed.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        let module = |path: &str, fields: &[&str]| {
            let fields = [fields, &["vermagic=6.1 SMP mod_unload "]].concat();
            scene.file(&format!("kernel/lib/modules/6.1/kernel/{path}"), &elf(1, Some(&fields)));
        };
        module("drivers/block/loop.ko", &[]);
        // Its tables of functions are symbols; any bytes of the file do.
        module(
            "fs/squashfs/squashfs.ko",
            &["alias=fs-squashfs", "x=squashfs_zstd_comp_ops", "x=squashfs_decompressor"],
        );
        module("fs/overlayfs/overlay.ko", &["alias=fs-overlay"]);
        module("drivers/virtio/virtio.ko", &[]);
        module("drivers/virtio/virtio_pci.ko", &["depends=virtio"]);
        module("drivers/net/virtio_net.ko", &["depends=virtio"]);
        scene.file(
            "kernel/lib/modules/6.1/modules.builtin",
            b"kernel/net/packet/af_packet.ko\nkernel/fs/fuse/fuse.ko\n",
        );
        scene.file("init", &elf(1, None));
        scene.file("www/index.html", b"<html>hello</html>");
        for (path, text) in [("sbin/init", "#!/bin/sh\n"), ("etc/machine-id", ""), ("lib/modules/6.1/modules.dep", "")]
        {
            scene.file(&format!("tree/{path}"), text.as_bytes());
        }
        let init = scene.path("tree/sbin/init");
        fs::set_permissions(init, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        scene
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn file(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Makes `www/web.squashfs` of `tree`, with its manifest.
    fn publish(&self, compress: &str) {
        let image = self.path("www/web.squashfs");
        let mut build = rootbeam();
        build.args(["--quiet", "image", "build", "--compress", compress]).arg(self.path("tree"));
        succeed(build.arg("-o").arg(&image));
        succeed(rootbeam().args(["--quiet", "image", "manifest"]).arg(&image));
    }

    fn pack(&self, arguments: &[&str]) -> PathBuf {
        let archive = self.path("initramfs");
        let mut pack = rootbeam();
        pack.args(["--quiet", "pack", "--preset", "qemu", "--allow-missing", "--modules"]).arg(self.path("kernel"));
        succeed(pack.args(arguments).arg("--init").arg(self.path("init")).arg("-o").arg(&archive));
        archive
    }

    fn serve(&self) -> Server {
        Server::start(&self.path("www"), "127.0.0.1:0".parse().unwrap(), Log::none()).unwrap()
    }
}

/// The exit code, and the findings that are no good as `LEVEL ABOUT TEXT`; all of them for `all`.
fn check(archive: &Path, words: &str, options: &[&str], all: bool) -> (i32, Vec<String>) {
    let mut command = rootbeam();
    command.arg("check").arg("--json").args(options).arg("--initramfs").arg(archive).args(words.split(' '));
    let (code, out, err) = run(&mut command);
    let told: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    let expected = match code {
        0 => "ok",
        3 => "failure",
        4 => "warning",
        other => panic!("{other}: {out}{err}"),
    };
    assert_eq!((told["verdict"].as_str(), err.as_str()), (Some(expected), ""));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = told["findings"].as_array().unwrap().iter();
    let lines = findings.map(|f| format!("{} {} {}", text(&f["level"]), text(&f["about"]), text(&f["text"])));
    (code, lines.filter(|line| all || !line.starts_with("ok ")).collect())
}

/// The one finding that is no good, and the exit code with it.
#[track_caller]
fn only(found: (i32, Vec<String>), code: i32, expected: &str) {
    assert_eq!(found.0, code, "{found:#?}");
    assert!(found.1.len() == 1 && found.1[0].contains(expected), "no {expected:?} alone in {:#?}", found.1);
}

#[test]
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

#[test]
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
    only(check(&archive, &image, &["--ram", "80M"], false), 3, "image of 4.0 KiB: it needs 32.0 MiB");
    only(check(&archive, &image, &["--ram", "200M"], false), 4, "memory is tight");
    let (code, found) = check(&archive, "quiet", &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("no rootbeam.image= says where the image is"), "{found:#?}");
    let (code, _, said) = run(rootbeam().args(["check", "--ram", "much", "--initramfs"]).arg(&archive));
    assert_eq!(code, 2, "{said}");
    let (code, _, said) = run(rootbeam().args(["check", "--initramfs", "/nothing"]));
    assert_eq!((code, said.contains("cannot read /nothing")), (1, true), "{said}");
}

#[test]
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

#[test]
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
        found[0].contains("gone.squashfs: the server answered 404 Not Found (and there is no manifest)"),
        "{found:#?}"
    );
    let both = check(&archive, &of(&["gone.squashfs", "web.squashfs"]), &[], false);
    only(both, 4, "The others serve.");
    let (code, found) = check(&archive, &of(&["index.html"]), &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("it looks like a web page"), "{found:#?}");
    let (code, found) = check(&archive, "rootbeam.image=http://127.0.0.1:1/web.squashfs", &[], false);
    assert_eq!(code, 3);
    assert!(found[0].contains("Connection refused"), "{found:#?}");

    let words = format!("{} rootbeam.header=X-Node:7", of(&["web.squashfs", "{mac}.squashfs"]));
    let (code, found) = check(&archive, &words, &[], false);
    assert_eq!(code, 4);
    assert!(found[0].contains("{mac}.squashfs: It was not asked"), "{found:#?}");
    assert!(found[1].contains("asked without the machine's token and headers"), "{found:#?}");

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

#[test]
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

/// Serves `folder` like a web server that knows no ranges.
fn serve_whole(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let Some(request) = lines.next() else { continue };
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let words: Vec<&str> = request.split(' ').collect();
            let answer = match fs::read(folder.join(words[1].trim_start_matches('/'))) {
                Ok(file) => {
                    let head =
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len());
                    [head.as_bytes(), if words[0] == "HEAD" { b"" } else { file.as_slice() }].concat()
                }
                Err(_) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
            };
            // The client may have seen enough.
            let _ = (&stream).write_all(&answer);
        }
    });
    format!("http://{address}")
}

#[test]
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

#[test]
fn signatures_are_verified_with_the_packed_keys() {
    if Command::new("minisign").arg("-v").output().is_err() {
        eprintln!("skipped: signatures_are_verified_with_the_packed_keys needs minisign");
        return;
    }
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

#[test]
fn certificates_are_judged_by_the_packed_authority() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: certificates_are_judged_by_the_packed_authority needs openssl");
        return;
    }
    let scene = Scene::new();
    let (mut server, port) = serve_tls(scene.folder.path(), -1);
    let authority = scene.path("ca.pem");
    let words = format!("rootbeam.image=https://127.0.0.1:{port}/web.squashfs");
    let expired = check(&scene.pack(&["--ca", authority.to_str().unwrap()]), &words, &[], false);
    let without = check(&scene.pack(&[]), &words, &[], false);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!((expired.0, without.0), (3, 3));
    assert!(expired.1[0].contains("certificate: Expired"), "{expired:#?}");
    assert!(without.1[0].contains("no certificate is packed: pack your authority's"), "{without:#?}");
}
