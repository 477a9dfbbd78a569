//! `rootbeam boot` without a machine, and the command line as such.

mod common;

use common::{rootbeam, run, succeed};
use std::fs;

#[test]
fn a_dry_run_prints_the_command_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vmlinuz", "initramfs", "web image.squashfs"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let mut command = rootbeam();
    command.current_dir(folder.path()).env("PATH", "/nonexistent");
    command.args(["boot", "--kernel", "vmlinuz", "--initramfs", "initramfs", "--dry-run", "--memory", "192M"]);
    command.args(["--image", "web image.squashfs", "--append", "quiet", "--forward", "8080:80", "--serial", "log"]);
    let (out, err) = succeed(&mut command);
    assert_eq!(err, "");
    let (before, after) = out.split_once("http://10.0.2.2:").unwrap();
    assert_eq!(
        before,
        "qemu-system-x86_64 -nodefaults -no-user-config -display none -monitor none -machine q35,accel=tcg -cpu max \
         -smp 2 -m 192M -device virtio-rng-pci -netdev user,id=net0,hostfwd=tcp:127.0.0.1:8080-:80 \
         -device virtio-net-pci,netdev=net0 -chardev file,id=serial0,path=log -serial chardev:serial0 -no-reboot \
         -kernel vmlinuz -initrd initramfs -append 'console=ttyS0,115200 rootbeam.image="
    );
    let (port, rest) = after.split_once('/').unwrap();
    assert!(port.parse::<u16>().is_ok(), "{port}");
    assert_eq!(rest, "web%20image.squashfs quiet'\n");
}

#[test]
fn what_is_missing_is_told_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("vmlinuz");
    fs::write(&kernel, "").unwrap();
    let boot = |initramfs: &str, image: &str| {
        let mut command = rootbeam();
        command.env("PATH", "/nonexistent").args(["boot", "--kernel"]).arg(&kernel);
        run(command.args(["--initramfs", initramfs, "--image", image]))
    };
    let (code, _, said) = boot("/nonexistent/initramfs", "http://a/b");
    assert_eq!((code, said.contains("cannot open /nonexistent/initramfs")), (1, true), "{said}");
    let kernel_again = kernel.to_str().unwrap();
    let (code, _, said) = boot(kernel_again, "/nonexistent/image");
    assert_eq!((code, said.contains("make one with `rootbeam image build`")), (1, true), "{said}");
    let (code, _, said) = boot(kernel_again, "http://a/b");
    assert_eq!((code, said.contains("install qemu-system-x86")), (1, true), "{said}");
}

#[test]
fn a_boot_that_failed_is_a_failure_of_the_command_and_one_that_ended_well_is_none() {
    const WHY: &str = "FAILED at image: http://a/b: the server refused the connection. Remedy: start the web server.";
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("vmlinuz");
    fs::write(&kernel, "").unwrap();
    // In place of QEMU: it says what is on the console, wherever that goes.
    let qemu = folder.path().join("qemu");
    let script = "#!/bin/sh\nfor word; do case $word in\n\
                  *,logfile=*) cat \"$CONSOLE\" | tee \"${word##*logfile=}\";;\n\
                  file,*path=*) cat \"$CONSOLE\" >\"${word##*path=}\";;\nesac; done\n";
    fs::write(&qemu, script).unwrap();
    fs::set_permissions(&qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let console = folder.path().join("console");
    let boot = |said: &str, arguments: &[&str]| {
        fs::write(&console, said).unwrap();
        let mut command = rootbeam();
        command
            .args(["--quiet", "boot", "--image", "http://a/b", "--kernel"])
            .arg(&kernel)
            .arg("--initramfs")
            .arg(&kernel);
        run(command.args(arguments).arg("--qemu").arg(&qemu).env("CONSOLE", &console))
    };
    let failed = format!("[ 2.0] rootbeam: {WHY}\r\n[ 2.1] rootbeam: switching the machine off\r\n");
    let told = format!("error: the boot failed, by the machine's own words: {WHY}\n");
    let log = folder.path().join("log");
    assert_eq!(boot(&failed, &[]), (1, failed.clone(), told.clone()));
    assert_eq!(boot(&failed, &["--timeout", "60", "--serial", log.to_str().unwrap()]), (1, String::new(), told));
    let well = failed.replace("switching the machine off", "trying again in 2 s") + "web login: \r\n";
    assert_eq!(boot(&well, &[]), (0, well.clone(), String::new()));
    assert_eq!(boot(&well, &["--serial", log.to_str().unwrap()]), (0, String::new(), String::new()));
}

#[test]
fn without_arguments_it_teaches_and_with_wrong_ones_it_ends_with_2() {
    let (out, _) = succeed(&mut rootbeam());
    assert!(out.contains("Exit codes:") && out.contains("rootbeam image build /srv/web-root"), "{out}");
    assert_eq!(succeed(rootbeam().arg("--help")).0, out);
    assert_eq!(succeed(rootbeam().arg("--version")).0, concat!("rootbeam ", env!("CARGO_PKG_VERSION"), "\n"));
    let (code, _, said) = run(rootbeam().args(["image", "bild"]));
    assert_eq!(code, 2);
    assert!(said.contains("build"), "{said}");
    let (code, _, _) = run(rootbeam().args(["boot", "--forward", "80"]));
    assert_eq!(code, 2);
}
