//! `rootbeam keygen`, `rootbeam sign` and `rootbeam image verify --key`, against Debian's minisign.

mod common;
#[path = "../../init/tests/common/needs.rs"]
mod needs;

use common::{image, rootbeam, run, succeed};
use rootbeam_init::manifest::CHUNK_SIZE;
use rootbeam_init::trust::{Key, signatures};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use tempfile::TempDir;

fn main() -> ExitCode {
    needs::run(needs::tests! {
        needs::nothing =>
            a_key_pair_is_private_complete_and_never_overwritten,
            without_a_terminal_a_password_is_never_left_out_by_accident,
            on_a_terminal_the_password_is_asked_for_and_not_shown,
            only_what_a_boot_reads_as_a_manifest_is_signed,
            verify_judges_the_signature_before_it_reads_the_manifest,
            verify_reports_in_json_that_a_manifest_is_not_signed_as_demanded,
            show_names_signers_and_the_word_that_pins;
        minisign =>
            minisign_and_rootbeam_take_each_others_keys_and_signatures,
            signatures_gather_in_one_file_and_minisign_reads_the_first;
    })
}

/// A folder with an image `a` and its manifest.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        fs::write(desk.path("a"), image(&[7; CHUNK_SIZE as usize])).unwrap();
        desk.rootbeam("image manifest a");
        fs::write(desk.path("password"), "open sesame\n").unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Whose signatures the manifest bears.
    fn signers(&self) -> Vec<String> {
        let signed = signatures(self.text("a.manifest.minisig").as_bytes());
        signed.iter().map(|signed| signed.key.to_string()).collect()
    }

    fn id(&self, public: &str) -> String {
        Key::parse(&self.text(public)).unwrap().id().to_string()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = rootbeam();
        command.current_dir(self.0.path()).args(line.split(' '));
        command
    }

    fn rootbeam(&self, line: &str) -> String {
        succeed(&mut self.command(line)).0
    }

    /// Code and words of what does not succeed.
    fn refused(&self, line: &str) -> (i32, String) {
        let (code, out, err) = run(&mut self.command(line));
        assert_ne!(code, 0, "{line}: {out}");
        (code, err)
    }

    /// Debian's minisign; these passwords are what it is given where it asks. Whether it succeeded.
    fn minisign(&self, line: &str, passwords: usize) -> bool {
        let mut command = Command::new("minisign");
        command.current_dir(self.0.path()).args(line.split(' '));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("minisign starts");
        let answers = self.text("password").repeat(passwords);
        // One that asks for nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
        child.wait().unwrap().success()
    }
}

fn minisign() -> Option<String> {
    needs::programs(&["minisign"])
}

fn a_key_pair_is_private_complete_and_never_overwritten() {
    let desk = Desk::new();
    let said = desk.rootbeam("keygen web --no-password");
    let id = desk.id("web.pub");
    assert_eq!(said, format!("web.key: secret key {id}, without a password; web.pub: its public key\n"));
    let mode = |name| fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("web.key"), mode("web.pub")), (0o600, 0o644));
    let before = (desk.text("web.key"), desk.text("web.pub"));
    for gone in ["none", "web.pub", "web.key"] {
        let away = desk.path("away");
        let moved = fs::rename(desk.path(gone), &away).is_ok();
        let (code, said) = desk.refused("keygen web --no-password");
        assert_eq!(code, 1);
        assert!(said.contains("is there, and a key is never overwritten"), "{said}");
        if moved {
            fs::rename(away, desk.path(gone)).unwrap();
        }
    }
    assert_eq!(before, (desk.text("web.key"), desk.text("web.pub")));
}

fn without_a_terminal_a_password_is_never_left_out_by_accident() {
    let desk = Desk::new();
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(rootbeam().get_program()).args(["keygen", "web"]).current_dir(desk.0.path());
    let (code, _, said) = run(command.stdin(Stdio::null()));
    assert_eq!(code, 1);
    assert!(said.contains("there is no terminal") && said.contains("--no-password"), "{said}");
    fs::write(desk.path("empty"), "\n").unwrap();
    assert!(desk.refused("keygen web --password-file empty").1.contains("the password is empty"));
    assert!(!desk.path("web.key").exists() && !desk.path("web.pub").exists());
}

fn on_a_terminal_the_password_is_asked_for_and_not_shown() {
    let desk = Desk::new();
    let script = |what: &str, answers: &str| {
        let line = format!("{} {what}", rootbeam().get_program().to_str().unwrap());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--echo", "never", "--command", &line, "/dev/null"]);
        let command = command.current_dir(desk.0.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("script starts");
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (made, said) = script("keygen web", "open sesame\nopen barley\n");
    assert!(!made && said.contains("the two passwords differ"), "{said}");
    let (made, said) = script("keygen web", "open sesame\nopen sesame\n");
    assert!(made && said.contains("under your password") && !said.contains("sesame"), "{said}");
    let (signed, said) = script("sign a.manifest -s web.key", "open barley\n");
    assert!(!signed && said.contains("Wrong password"), "{said}");
    let (signed, said) = script("sign a.manifest -s web.key", "open sesame\n");
    assert!(signed, "{said}");
    assert_eq!(desk.signers(), [desk.id("web.pub")]);
}

fn minisign_and_rootbeam_take_each_others_keys_and_signatures() {
    let desk = Desk::new();
    desk.rootbeam("keygen ours --no-password");
    desk.rootbeam("keygen ours-locked --password-file password");
    assert!(desk.minisign("-G -W -p theirs.pub -s theirs.key", 0));
    assert!(desk.minisign("-G -p theirs-locked.pub -s theirs-locked.key", 2));
    for name in ["ours", "ours-locked", "theirs", "theirs-locked"] {
        let (key, public) = (format!("{name}.key"), format!("{name}.pub"));
        let good = format!("image verify a --key {public}");
        desk.rootbeam(&format!("sign a.manifest -s {key} --password-file password"));
        assert!(desk.minisign(&format!("-V -p {public} -m a.manifest"), 0), "{name}: minisign on rootbeam's signature");
        desk.rootbeam(&good);
        // A file with one signature is minisign's to the line.
        assert_eq!(desk.text("a.manifest.minisig").lines().count(), 4);
        assert!(desk.minisign(&format!("-S -s {key} -m a.manifest"), 1), "{name}: minisign signs");
        assert_eq!(
            desk.rootbeam(&good),
            format!("a: all 2 chunks are as version 1 promises, signed by {}\n", desk.id(&public))
        );
    }
    let (code, said) = desk.refused("sign a.manifest -s ours-locked.key --password-file a.manifest");
    assert!(code == 1 && said.contains("Wrong password"), "{said}");
}

fn signatures_gather_in_one_file_and_minisign_reads_the_first() {
    let desk = Desk::new();
    for name in ["ann", "bob", "eve"] {
        desk.rootbeam(&format!("keygen {name} --no-password"));
    }
    let [ann, bob] = ["ann.pub", "bob.pub"].map(|public| desk.id(public));
    desk.rootbeam("sign a.manifest -s ann.key --add");
    let two = "image verify a --key ann.pub --key bob.pub --key eve.pub --key-threshold 2";
    let (code, said) = desk.refused(two);
    assert_eq!(code, 3);
    assert!(said.contains(&format!("it is signed by 1 of the 2 trusted keys that are needed ({ann})")), "{said}");
    desk.rootbeam("sign a.manifest -s bob.key --add");
    assert_eq!(desk.signers(), [ann.clone(), bob.clone()]);
    desk.rootbeam(two);
    assert!(desk.minisign("-V -p ann.pub -m a.manifest", 0));
    // Whoever signs again replaces the own signature.
    desk.rootbeam("sign a.manifest -s ann.key --add");
    assert_eq!(desk.signers(), [bob.clone(), ann.clone()]);
    desk.rootbeam(two);
    // What minisign wrote for itself may be put behind another.
    assert!(desk.minisign("-S -s eve.key -m a.manifest -x eve.minisig", 0));
    fs::write(desk.path("a.manifest.minisig"), desk.text("eve.minisig") + &desk.text("a.manifest.minisig")).unwrap();
    desk.rootbeam(&two.replace("threshold 2", "threshold 3"));
    let (_, err) = succeed(&mut desk.command("sign a.manifest -s bob.key"));
    assert_eq!(desk.signers(), [bob]);
    assert!(err.contains("--add keeps them"), "{err}");
}

fn only_what_a_boot_reads_as_a_manifest_is_signed() {
    let desk = Desk::new();
    desk.rootbeam("keygen web --no-password");
    let refused = |what: &str, expected: &str| {
        let (code, said) = desk.refused(&format!("sign {what} -s web.key"));
        assert!(code == 1 && said.contains(expected), "{said}");
    };
    refused("a", "a is no manifest: sign a.manifest");
    fs::write(desk.path("large"), image(&[7; 2 << 20])).unwrap();
    let large = "large is no manifest, it has more than 1048576 bytes: ";
    refused("large", &format!("{large}run `rootbeam image manifest large` and sign large.manifest"));
    desk.rootbeam("image manifest large");
    refused("large", &format!("{large}sign large.manifest"));
    refused("password", "password: it is not a manifest in JSON");
    refused("nothing", "there is no nothing");
    assert!(desk.refused("sign a.manifest -s web.pub").1.contains("web.pub is no secret key"));
    // The public half of a secret key does not belong to the other half.
    let key = desk.text("web.key");
    let damaged = key.chars().rev().enumerate().map(|(at, c)| match (at, c) {
        (60, 'x') => 'y',
        (60, _) => 'x',
        _ => c,
    });
    fs::write(desk.path("damaged.key"), damaged.collect::<Vec<_>>().into_iter().rev().collect::<String>()).unwrap();
    assert!(desk.refused("sign a.manifest -s damaged.key").1.contains("damaged.key is damaged"));
    assert!(!desk.path("a.manifest.minisig").exists());
    fs::write(desk.path("a.manifest.minisig"), "mine\n").unwrap();
    refused("a.manifest", "holds no minisign signature: remove it");
    assert_eq!(desk.text("a.manifest.minisig"), "mine\n");
}

fn verify_judges_the_signature_before_it_reads_the_manifest() {
    let desk = Desk::new();
    desk.rootbeam("keygen web --no-password");
    desk.rootbeam("keygen other --no-password");
    assert!(desk.refused("image verify a --key web.pub").1.contains("make it with `rootbeam sign a.manifest -s KEY`"));
    desk.rootbeam("sign a.manifest -s other.key");
    let (code, said) = desk.refused("image verify a --key web.pub");
    assert_eq!(code, 3);
    assert!(
        said.contains(&format!("it is signed by {}, and by none of the trusted keys", desk.id("other.pub"))),
        "{said}"
    );
    desk.rootbeam("sign a.manifest -s web.key");
    let (code, said) = desk.refused("image verify a --key web.pub --min-version 2");
    assert!(code == 3 && said.contains("it has version 1, below 2"), "{said}");
    fs::write(desk.path("a.manifest"), "<html>404</html>").unwrap();
    let (code, said) = desk.refused("image verify a --key web.pub");
    assert_eq!(code, 3);
    assert!(said.contains(&format!("its signature by {} is wrong", desk.id("web.pub"))), "{said}");
}

fn verify_reports_in_json_that_a_manifest_is_not_signed_as_demanded() {
    let desk = Desk::new();
    desk.rootbeam("keygen web --no-password");
    desk.rootbeam("keygen other --no-password");
    desk.rootbeam("sign a.manifest -s other.key");
    let refused = |options: &str, fault: &str| {
        let (code, out, err) = run(&mut desk.command(&format!("image verify a --json {options}")));
        assert_eq!(code, 3, "{err}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out:?} {err}"));
        let told = report["fault"].as_str().unwrap();
        assert!(told.starts_with(fault) && err.contains(told), "{report} {err}");
        assert_eq!(report, serde_json::json!({"image": "a", "good": false, "fault": told}));
    };
    refused("--key web.pub", &format!("it is signed by {}, and by none of the trusted keys", desk.id("other.pub")));
    refused("--key other.pub --min-version 2", "it has version 1, below 2");
}

fn show_names_signers_and_the_word_that_pins() {
    let desk = Desk::new();
    desk.rootbeam("keygen web --no-password");
    desk.rootbeam("sign a.manifest -s web.key");
    let shown = desk.rootbeam("image show a.manifest");
    let pin = rootbeam_init::digest::Sha256::of(desk.text("a.manifest").as_bytes());
    assert!(shown.contains(&format!("pin         rootbeam.manifest=sha256:{pin}\n")), "{shown}");
    assert!(shown.contains(&format!("signed by   {}; ", desk.id("web.pub"))), "{shown}");
}
