//! `rootbeam image build`: the image, as the kernel mounts it, is the source.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../init/tests/common/needs.rs"]
mod needs;
mod trees;

use common::{rootbeam, run, succeed};
use rootbeam_init::digest::Sha256;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tempfile::tempdir;
use trees::{CAPABILITY, assert_same, contents, full_source, pack_tar, plain_source, tree, without_sockets};

fn main() -> ExitCode {
    needs::run(needs::tests! {
        needs::nothing =>
            warns_of_secrets_that_all_machines_would_share,
            faulty_sources_are_refused_and_leave_nothing,
            a_writer_that_dies_by_a_signal_is_told_in_a_sentence,
            a_build_that_is_killed_takes_its_writer_along_and_the_next_removes_what_it_left,
            an_image_is_not_written_in_its_own_source,
            an_unreadable_clock_word_is_refused;
        needs::root =>
            an_image_of_a_folder_is_the_folder,
            refuses_to_lose_xattrs_and_hard_links_without_mksquashfs;
        linked =>
            hard_links_xattrs_and_capabilities_of_a_folder_are_kept,
            an_image_of_a_tar_is_the_tree_in_it,
            a_hard_link_before_the_last_of_its_file_in_the_tar_is_refused_with_both_names,
            a_tar_without_entries_for_its_folders_gets_them,
            what_is_excluded_and_only_that_stays_out,
            the_same_source_gives_the_same_bytes,
            no_file_is_newer_than_the_epoch,
            with_mksquashfs_only_the_xattrs_are_dropped;
    })
}

/// For images with hard links, and trees that only root makes.
fn linked() -> Option<String> {
    needs::root().or_else(|| needs::programs(&["mksquashfs"]))
}

fn build(source: &Path, image: &Path, options: &[&str]) -> String {
    succeed(rootbeam().args(["image", "build"]).arg(source).arg("-o").arg(image).args(options)).1
}

fn an_image_of_a_folder_is_the_folder() {
    let source = plain_source();
    let out = tempdir().unwrap();
    for options in [&[][..], &["--compress", "gzip"], &["--compress", "xz"], &["--level", "3"]] {
        let image = out.path().join("plain.squashfs");
        build(source.path(), &image, options);
        assert_same(tree(source.path()), contents(&image));
    }
}

fn hard_links_xattrs_and_capabilities_of_a_folder_are_kept() {
    let source = full_source();
    let out = tempdir().unwrap();
    let image = out.path().join("full.squashfs");
    build(source.path(), &image, &[]);
    let found = contents(&image);
    assert_eq!(
        found.get(Path::new("usr/bin/ping")).unwrap().xattrs.get("security.capability"),
        Some(&CAPABILITY.to_vec())
    );
    assert_eq!(found.get(Path::new("usr/third-name")).unwrap().names, Some(3));
    assert_same(tree(source.path()), found);

    let link = out.path().join("link");
    symlink(source.path(), &link).unwrap();
    build(&link, &image, &[]);
    assert_same(tree(source.path()), contents(&image));
}

fn an_image_of_a_tar_is_the_tree_in_it() {
    let out = tempdir().unwrap();
    let plain = plain_source();
    for (name, options) in
        [("a.tar", &[][..]), ("a.tar.gz", &["-z"]), ("a.tar.xz", &["-J"]), ("a.tar.zst", &["--zstd"])]
    {
        let (tar, image) = (out.path().join(name), out.path().join("tar.squashfs"));
        pack_tar(plain.path(), &tar, options);
        build(&tar, &image, &[]);
        assert_same(without_sockets(tree(plain.path())), contents(&image));
    }
    let full = full_source();
    let (tar, image) = (out.path().join("full.tar"), out.path().join("full.squashfs"));
    pack_tar(full.path(), &tar, &[]);
    build(&tar, &image, &[]);
    let mut found = contents(&image);
    let mut expected = without_sockets(tree(full.path()));
    // mksquashfs gives the root of a tar the image's date.
    found.remove(Path::new(""));
    expected.remove(Path::new(""));
    assert_same(expected, found);
}

fn a_tar_without_entries_for_its_folders_gets_them() {
    let out = tempdir().unwrap();
    let tar = out.path().join("a.tar");
    let image = out.path().join("a.squashfs");
    for links in [false, true] {
        let mut builder = tar::Builder::new(fs::File::create(&tar).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(3);
        builder.append_data(&mut header.clone(), "opt/app/file", &b"abc"[..]).unwrap();
        builder.append_data(&mut header.clone(), "opt/app/file", &b"def"[..]).unwrap();
        if links {
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, "opt/link", "opt/app/file").unwrap();
        }
        builder.finish().unwrap();
        build(&tar, &image, &[]);
        let found = contents(&image);
        let paths: Vec<_> = found.keys().map(|path| path.to_str().unwrap()).collect();
        let expected = if links {
            &["", "opt", "opt/app", "opt/app/file", "opt/link"][..]
        } else {
            &["", "opt", "opt/app", "opt/app/file"]
        };
        assert_eq!(paths, expected);
        for folder in ["", "opt", "opt/app"] {
            let facts = found.get(Path::new(folder)).unwrap();
            assert_eq!((facts.mode, facts.owner, facts.mtime), (0o40755, (0, 0), 1_600_000_000), "{folder:?}");
        }
        let file = found.get(Path::new("opt/app/file")).unwrap();
        assert_eq!(file.contents, Some((3, Sha256::of(b"def"))), "the later entry counts");
    }
}

fn what_is_excluded_and_only_that_stays_out() {
    let out = tempdir().unwrap();
    let excluded = |path: &Path| path.starts_with("usr/share") || path == Path::new("etc/a name with spaces, é and *");
    let options = ["--exclude", "/usr/share", "--exclude", "etc/a name*", "--exclude", "nothing/here"];
    for source in [plain_source(), full_source()] {
        let tar = out.path().join("a.tar");
        pack_tar(source.path(), &tar, &[]);
        let mut expected = without_sockets(tree(source.path()));
        expected.retain(|path, _| !excluded(path));
        expected.remove(Path::new(""));
        for from in [source.path(), &tar] {
            let image = out.path().join("a.squashfs");
            let said = build(from, &image, &options);
            assert!(said.contains("--exclude nothing/here matches nothing"), "{said}");
            let mut found = without_sockets(contents(&image));
            found.remove(Path::new(""));
            for path in ["usr", "etc"] {
                // Excluding changes nothing about the folder itself.
                assert_eq!(found.get(Path::new(path)), expected.get(Path::new(path)));
            }
            assert_same(expected.clone(), found);
        }
    }
}

fn the_same_source_gives_the_same_bytes() {
    let out = tempdir().unwrap();
    for source in [plain_source(), full_source()] {
        let tar = out.path().join("a.tar");
        pack_tar(source.path(), &tar, &[]);
        for from in [source.path(), &tar] {
            let images = ["1", "2"].map(|name| {
                let image = out.path().join(name);
                build(from, &image, &[]);
                fs::read(image).unwrap()
            });
            assert!(images[0] == images[1], "{}", from.display());
        }
    }
}

fn no_file_is_newer_than_the_epoch() {
    let out = tempdir().unwrap();
    let image = out.path().join("a.squashfs");
    for source in [plain_source(), full_source()] {
        let mut command = rootbeam();
        command.env("SOURCE_DATE_EPOCH", "1600000010").args(["image", "build"]);
        succeed(command.arg(source.path()).arg("-o").arg(&image));
        let expected: BTreeMap<_, _> =
            tree(source.path()).into_iter().map(|(path, facts)| (path, facts.mtime.min(1_600_000_010))).collect();
        let found: BTreeMap<_, _> = contents(&image).into_iter().map(|(path, facts)| (path, facts.mtime)).collect();
        assert_eq!(found, expected);
    }
}

fn refuses_to_lose_xattrs_and_hard_links_without_mksquashfs() {
    let source = full_source();
    let out = tempdir().unwrap();
    let image = out.path().join("a.squashfs");
    let command = |options: &[&str]| {
        let mut command = rootbeam();
        command.env("PATH", "/nonexistent").args(["image", "build"]).arg(source.path()).arg("-o").arg(&image);
        command.args(options);
        command
    };
    let (code, _, said) = run(&mut command(&[]));
    assert_eq!(code, 1);
    for expected in ["/usr/bin/ping", "/etc, ", "/usr/third-name", "install squashfs-tools", "--drop-xattrs"] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert!(fs::read_dir(out.path()).unwrap().next().is_none(), "nothing is left");

    let (_, said) = succeed(&mut command(&["--drop-xattrs"]));
    assert!(said.contains("hard links become copies: /usr/bin/large, /usr/third-name"), "{said}");
    let mut expected = tree(source.path());
    for facts in expected.values_mut() {
        facts.xattrs.clear();
        facts.names = facts.names.map(|_| 1);
    }
    assert_same(expected, contents(&image));
}

fn with_mksquashfs_only_the_xattrs_are_dropped() {
    let source = full_source();
    let out = tempdir().unwrap();
    let image = out.path().join("a.squashfs");
    let said = build(source.path(), &image, &["--drop-xattrs"]);
    assert!(said.contains("left out of /etc, /usr/bin/block, /usr/bin/ping"), "{said}");
    let mut expected = tree(source.path());
    expected.values_mut().for_each(|facts| facts.xattrs.clear());
    assert_same(expected, contents(&image));
}

fn warns_of_secrets_that_all_machines_would_share() {
    let source = tempdir().unwrap();
    let root = source.path();
    fs::create_dir_all(root.join("etc/ssh")).unwrap();
    fs::create_dir_all(root.join("var/lib/systemd")).unwrap();
    fs::write(root.join("etc/ssh/ssh_host_ed25519_key"), "secret").unwrap();
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::write(root.join("var/lib/systemd/random-seed"), "seed").unwrap();
    let out = tempdir().unwrap();
    let image = out.path().join("a.squashfs");
    let tar = out.path().join("a.tar");
    pack_tar(root, &tar, &[]);
    for from in [root, &tar] {
        let said = build(from, &image, &[]);
        for name in ["/etc/ssh/ssh_host_ed25519_key", "/etc/machine-id", "/var/lib/systemd/random-seed"] {
            assert!(said.lines().any(|line| line.starts_with("warning: ") && line.contains(name)), "{name}: {said}");
        }
    }
    fs::write(root.join("etc/machine-id"), "").unwrap();
    fs::remove_file(root.join("etc/ssh/ssh_host_ed25519_key")).unwrap();
    fs::remove_file(root.join("var/lib/systemd/random-seed")).unwrap();
    assert_eq!(build(root, &image, &[]), "");
    let resolv_conf = root.join("etc/resolv.conf");
    let said = |text: &str| {
        fs::write(&resolv_conf, text).unwrap();
        pack_tar(root, &tar, &[]);
        [root, &tar].map(|from| build(from, &image, &[]))
    };
    let own = "warning: /etc/resolv.conf is not empty, so it is kept, and it names no server but the machine's own, which it \
               must run to find a name: empty the file, and the boot writes the name servers of the lease into it\n";
    assert_eq!(said("nameserver 127.0.0.53\n"), [own, own]);
    let told = |said: &String| said.contains("so it is kept, and all machines will ask 10.0.0.1 for names");
    assert!(said("nameserver 10.0.0.1\n").iter().all(told));
    assert_eq!(said(""), ["", ""]);
    fs::remove_file(&resolv_conf).unwrap();
    fs::remove_file(root.join("etc/machine-id")).unwrap();
    assert!(build(root, &image, &[]).contains("/etc/machine-id is missing"));
}

fn faulty_sources_are_refused_and_leave_nothing() {
    let folder = tempdir().unwrap();
    let refuse = |source: &Path, options: &[&str], expected: &str| {
        let out = tempdir().unwrap();
        let mut command = rootbeam();
        command.args(["image", "build"]).arg(source).arg("-o").arg(out.path().join("a.squashfs")).args(options);
        let (code, _, said) = run(&mut command);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expected), "{expected:?} is not in {said}");
        assert!(fs::read_dir(out.path()).unwrap().next().is_none(), "something is left");
    };
    refuse(&folder.path().join("nowhere"), &[], "cannot read");
    refuse(folder.path(), &[], "holds nothing");
    let text = folder.path().join("text");
    fs::write(&text, "no tar ".repeat(1000)).unwrap();
    refuse(&text, &[], "is not a tar that can be read");
    refuse(folder.path(), &["--level", "99"], "--level 99 does not exist: it goes from 1 to 22");
    refuse(folder.path(), &["--exclude", ".."], "names no path below the root");
    let truncated = folder.path().join("truncated.tar");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5000);
    header.set_mode(0o644);
    builder.append_data(&mut header, "file", &[1; 5000][..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    fs::write(&truncated, &bytes[..3000]).unwrap();
    refuse(&truncated, &[], "truncated");
}

/// A tar of these members: name, and contents or what it is a hard link to.
fn tar_of(path: &Path, members: &[(&str, Result<&str, &str>)]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, member) in members {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        match member {
            Ok(contents) => {
                header.set_size(contents.len() as u64);
                builder.append_data(&mut header, name, contents.as_bytes()).unwrap();
            }
            Err(target) => {
                header.set_size(0);
                header.set_entry_type(tar::EntryType::Link);
                builder.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    builder.finish().unwrap();
}

fn a_hard_link_before_the_last_of_its_file_in_the_tar_is_refused_with_both_names() {
    let folder = tempdir().unwrap();
    let (tar, image) = (folder.path().join("a.tar"), folder.path().join("a.squashfs"));
    let a_and_b = [("opt/a", Ok("old")), ("opt/b", Err("opt/a"))];
    let mut command = rootbeam();
    command.args(["image", "build"]).arg(&tar).arg("-o").arg(&image);

    let expected = "opt/b is a hard link to opt/a, which the tar has, or has anew, only after the link: unpack the tar and \
                    build from the folder, or make the tar again in one go";
    // What `tar -r` of a newer file makes, and what no tar should hold.
    for members in [&[a_and_b[0], a_and_b[1], ("opt/a", Ok("new"))][..], &[a_and_b[1], a_and_b[0]]] {
        tar_of(&tar, members);
        let (code, _, said) = run(&mut command);
        assert_eq!((code, image.exists()), (1, false), "{said}");
        assert!(said.contains(expected), "{said}");
    }
    // Where the link is in it anew too, nothing is amiss.
    tar_of(&tar, &[a_and_b[0], a_and_b[1], ("opt/a", Ok("new")), a_and_b[1]]);
    succeed(&mut command);
}

fn a_writer_that_dies_by_a_signal_is_told_in_a_sentence() {
    let folder = tempdir().unwrap();
    let tar = folder.path().join("a.tar");
    tar_of(&tar, &[("a", Ok("a")), ("b", Err("a"))]);
    let program = folder.path().join("mksquashfs");
    fs::write(&program, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = rootbeam();
    command.env("PATH", folder.path()).args(["image", "build"]).arg(&tar).arg("-o").arg(folder.path().join("image"));
    let (code, _, said) = run(&mut command);
    assert_eq!(code, 1);
    assert!(
        said.contains("/mksquashfs was ended by signal 11 before the image was whole, and said nothing: "),
        "{said}"
    );
    assert!(!said.trim_end().ends_with(':'), "{said}");
}

fn a_build_that_is_killed_takes_its_writer_along_and_the_next_removes_what_it_left() {
    let (folder, out) = (tempdir().unwrap(), tempdir().unwrap());
    let tar = folder.path().join("a.tar");
    tar_of(&tar, &[("a", Ok("a")), ("b", Err("a"))]);
    let program = folder.path().join("mksquashfs");
    let number = folder.path().join("number");
    fs::write(
        &program,
        format!("#!/bin/sh\necho $$ >{0}.new\n/bin/mv {0}.new {0}\nexec /bin/sleep 60\n", number.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let image = out.path().join("image");
    let mut command = rootbeam();
    command.env("PATH", folder.path()).args(["image", "build"]).arg(&tar).arg("-o").arg(&image);
    let mut child = command.spawn().unwrap();
    let in_time = |what: &str, holds: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(30), "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    in_time("the writer starts", &|| number.exists());
    let writer = fs::read_to_string(&number).unwrap();
    let stat = format!("/proc/{}/stat", writer.trim());
    // Beside the one that is running another build leaves its file alone.
    let source = folder.path().join("plain");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    build(&source, &out.path().join("other"), &[]);
    let names = || {
        let names = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert!(names().len() == 2 && names()[0].starts_with(".rootbeam-build-"), "{:?}", names());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    // Ended, whether or not somebody has asked for its end.
    in_time("the writer ends", &|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
    build(&source, &image, &[]);
    assert_eq!(names(), ["image", "other"]);
}

fn an_image_is_not_written_in_its_own_source() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("tree");
    fs::create_dir_all(root.join("out")).unwrap();
    fs::write(root.join("file"), "x").unwrap();
    symlink("tree/out", folder.path().join("link")).unwrap();
    let build = |source: &str, output: &str, options: &[&str]| {
        let mut command = rootbeam();
        run(command.current_dir(&root).args(["image", "build", source, "-o", output]).args(options))
    };
    for (source, output) in
        [(".", "web.squashfs"), ("../tree", "out/web.squashfs"), ("../tree/.", "../link/web.squashfs")]
    {
        for options in [&[][..], &["--exclude", "file"]] {
            let (code, _, said) = build(source, output, options);
            let expected = format!(
                "{output} would be written in {source}, of which it is the image, and so hold the one that was built \
                 before: name a place outside of it, or one in a folder that --exclude leaves out"
            );
            assert!(code == 1 && said.contains(&expected), "{said}");
        }
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
    assert_eq!(fs::read_dir(root.join("out")).unwrap().count(), 0);
    // In a folder that stays out it may be, and the second is the first.
    let images = [(); 2].map(|()| {
        let (code, _, said) = build(".", "out/web.squashfs", &["--exclude", "out"]);
        assert_eq!(code, 0, "{said}");
        fs::read(root.join("out/web.squashfs")).unwrap()
    });
    assert!(images[0] == images[1]);
    assert_eq!(build(".", "../tree.squashfs", &[]).0, 0);
}

fn an_unreadable_clock_word_is_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("file"), "x").unwrap();
    let image = folder.path().join("image");
    let mut command = rootbeam();
    command.env("SOURCE_DATE_EPOCH", "yesterday").args(["image", "build"]).arg(folder.path()).arg("-o").arg(&image);
    let (code, _, said) = run(&mut command);
    assert_eq!(code, 1);
    assert!(said.contains("no number of seconds since 1970"), "{said}");
}
