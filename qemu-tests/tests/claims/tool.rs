//! `rootbeam boot`, the program that ships, from its command line to its exit code: with real images, as a person runs it.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::archives;
use rootbeam_qemu_tests::claim::{claim, equal};
use rootbeam_qemu_tests::command::{exists, run_line};
use rootbeam_qemu_tests::console::Console;
use rootbeam_qemu_tests::images::{self, published};
use rootbeam_qemu_tests::packages::{self, Kernel, Suite};
use rootbeam_qemu_tests::places::{cache, shipped_rootbeam};
use rootbeam_qemu_tests::qemu;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

pub fn claims() -> Vec<Trial> {
    vec![
        claim(
            "tool: `rootbeam boot` leads from a file to a login, and ends well when the machine powers off",
            &[qemu::available, own_qemu],
            direct,
        ),
        claim(
            "tool: `rootbeam boot --pxe` leads by firmware to an answered page, and ends well when the machine powers off",
            &[qemu::available, own_qemu, images::debian],
            pxe,
        ),
    ]
}

/// It starts the QEMU that is installed.
fn own_qemu() -> Result<()> {
    ensure!(exists("qemu-system-x86_64"), "qemu-system-x86_64 is missing: run `make deps`");
    Ok(())
}

/// Bound on everything that a person at the console waits for.
const LIMIT: Duration = Duration::from_secs(400);

/// `rootbeam boot` with its console on pipes. Dropped, it is killed, and its machine ends with it.
struct Session {
    tool: Child,
    keyboard: ChildStdin,
    console: Console,
    _turn: qemu::Turn,
}

impl Session {
    fn start(mut command: Command, name: &str) -> Result<Self> {
        let turn = qemu::Turn::wait();
        let (reader, writer) = std::io::pipe()?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        let mut tool = command.spawn().context("cannot start rootbeam")?;
        // It holds the pipe's other end, whose last holder makes the end of the console.
        drop(command);
        let keyboard = tool.stdin.take().context("no keyboard")?;
        let console = Console::read(reader, &cache("logs")?.join(format!("tool-{name}-{}.log", std::process::id())))?;
        Ok(Self { tool, keyboard, console, _turn: turn })
    }

    fn log_in(&mut self, name: &str) -> Result<()> {
        let mut seen = 0;
        for (question, answer) in [(format!("{name} login:"), "root\n"), ("Password:".to_owned(), "rootbeam\n")] {
            seen = self.console.wait_for_after(seen, &question, LIMIT)?;
            self.keyboard.write_all(answer.as_bytes())?;
        }
        self.console.wait_for_after(seen, "# ", LIMIT).map(drop)
    }

    /// Turns the machine off by the shell; all that was said, and the exit code.
    fn power_off(mut self) -> Result<(String, Option<i32>)> {
        self.keyboard.write_all(b"poweroff\n")?;
        let said = self.console.wait_closed(LIMIT)?;
        Ok((said, self.tool.wait()?.code()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.tool.kill();
        let _ = self.tool.wait();
    }
}

/// `rootbeam boot` of this kernel with an archive for it, from a folder with the image.
fn boot(kernel: &Kernel, image: &Path, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(shipped_rootbeam()?);
    command.args(["boot", "--timeout", "600", "--kernel"]).arg(&kernel.vmlinuz).arg("--initramfs");
    command.arg(archives::for_qemu(kernel)?).arg("--image").arg(image).args(words);
    Ok(command)
}

/// What it says of an image and of a kernel that are not there, with its exit code.
fn assert_missing_files_are_named(kernel: &Kernel, image: &Path, words: &[&str]) -> Result<()> {
    let said = |command: &mut Command| -> Result<(Option<i32>, String)> {
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?))
    };
    let gone = image.with_file_name("gone.squashfs");
    let expected = format!(
        "error: there is no image {}: make one with `rootbeam image build`, or give an http or https URL\n",
        gone.display()
    );
    equal(&said(&mut boot(kernel, &gone, words)?)?, &(Some(1), expected))?;
    let without = Kernel { vmlinuz: image.with_file_name("vmlinuz"), ..kernel.clone() };
    let expected = format!("error: cannot open {}: No such file or directory", without.vmlinuz.display());
    let (code, text) = said(&mut boot(&without, image, words)?)?;
    ensure!(code == Some(1) && text.starts_with(&expected), "{code:?} {text}");
    Ok(())
}

fn direct() -> Result<()> {
    let kernel = packages::kernel(Suite::Bookworm)?;
    let folder = published(&images::busybox()?, "root.squashfs")?;
    let image = folder.path().join("root.squashfs");
    let mut session = Session::start(boot(&kernel, &image, &["--append", "colour=blue"])?, "direct")?;
    session.log_in("busybox-node")?;
    // Computed, so that the echo of the typed line does not hold it.
    session.keyboard.write_all(b"mount; echo end-$((40 + 2))\n")?;
    let said = session.console.wait_for("end-42", LIMIT)?;
    ensure!(said.contains("rootbeam on / type overlay (rw"), "{said}");
    let (said, code) = session.power_off()?;
    equal(&code, &Some(0))?;
    for part in ["/root.squashfs colour=blue", "the machine's console follows; Ctrl-A X ends the machine", "Power down"]
    {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    assert_missing_files_are_named(&kernel, &image, &[])
}

fn pxe() -> Result<()> {
    let web = images::web()?;
    let kernel = web.kernel()?;
    let folder = published(&web.image, "web.squashfs")?;
    let image = folder.path().join("web.squashfs");
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let words = ["--pxe", "--forward", &format!("{port}:80")];
    let mut session = Session::start(boot(&kernel, &image, &words)?, "pxe")?;
    session.log_in("web-node")?;
    let page = run_line(&format!(
        "curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-all-errors http://127.0.0.1:{port}/"
    ))?;
    for part in ["<h1>web-node lives in RAM</h1>", "10.0.2.15/24", &kernel.release, "<td>overlay"] {
        ensure!(page.contains(part), "no {part:?} in the page:\n{page}");
    }
    let (said, code) = session.power_off()?;
    equal(&code, &Some(0))?;
    for part in ["PXELINUX", "BOOTIF=01-", "/web.squashfs", "Power down"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    assert_missing_files_are_named(&kernel, &image, &["--pxe"])
}
