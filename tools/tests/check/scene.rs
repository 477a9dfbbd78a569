//! What a check is tried on: an initramfs, images on a server, and the findings.

use crate::common::{elf, rootbeam, run, succeed};
use rootbeam::serve::log::Log;
use rootbeam::serve::server::Server;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A kernel's modules, an image published in `www`, and room for what is packed.
pub struct Scene {
    pub folder: TempDir,
}

impl Scene {
    pub fn new() -> Self {
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
        for path in ["etc/machine-id", "lib/modules/6.1/modules.dep"] {
            scene.file(&format!("tree/{path}"), b"");
        }
        scene.program("tree/sbin/init", &elf(1, None));
        scene
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn file(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A file that can be executed.
    pub fn program(&self, path: &str, bytes: &[u8]) {
        self.file(path, bytes);
        fs::set_permissions(self.path(path), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Makes `www/web.squashfs` of `tree`, with its manifest.
    pub fn publish(&self, compress: &str) {
        self.publish_as("web", "tree", compress, &[]);
    }

    /// Makes `www/NAME.squashfs` of a folder, with its manifest, of which more is said.
    pub fn publish_as(&self, name: &str, folder: &str, compress: &str, more: &[&str]) {
        let image = self.path(&format!("www/{name}.squashfs"));
        let mut build = rootbeam();
        build.args(["--quiet", "image", "build", "--compress", compress]).arg(self.path(folder));
        succeed(build.arg("-o").arg(&image));
        succeed(rootbeam().args(["--quiet", "image", "manifest"]).args(more).arg(&image));
    }

    /// A path as an argument.
    pub fn text(&self, path: &str) -> String {
        self.path(path).to_str().unwrap().to_owned()
    }

    pub fn pack(&self, arguments: &[&str]) -> PathBuf {
        let archive = self.path("initramfs");
        let mut pack = rootbeam();
        pack.args(["--quiet", "pack", "--preset", "qemu", "--allow-missing", "--modules"]).arg(self.path("kernel"));
        succeed(pack.args(arguments).arg("--init").arg(self.path("init")).arg("-o").arg(&archive));
        archive
    }

    pub fn serve(&self) -> Server {
        Server::start(&self.path("www"), "127.0.0.1:0".parse().unwrap(), Log::none()).unwrap()
    }
}

/// The exit code, and the findings that are no good as `LEVEL ABOUT TEXT`; all of them for `all`.
pub fn check(archive: &Path, words: &str, options: &[&str], all: bool) -> (i32, Vec<String>) {
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
pub fn only(found: (i32, Vec<String>), code: i32, expected: &str) {
    assert_eq!(found.0, code, "{found:#?}");
    assert!(found.1.len() == 1 && found.1[0].contains(expected), "no {expected:?} alone in {:#?}", found.1);
}
