//! Words of the command line, read by the code that boots.

use super::verdict::{About, Verdict};
use rootbeam_init::settings::values::OnFailure;
use rootbeam_init::settings::{Notice, Settings};

const OPTIONS: About = About::Options;

/// What the words are judged beside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// The archive has a shell.
    pub shell: bool,
    /// Files alone are judged, an image among them.
    pub files_alone: bool,
}

/// Judges the settings and what was not understood.
pub fn judge(settings: &Settings, notices: &[Notice], beside: Beside) -> Vec<Verdict> {
    let sentence = |notice: &Notice| {
        let text = notice.to_string();
        if text.ends_with('?') { text } else { text + "." }
    };
    let mut verdicts: Vec<Verdict> = notices.iter().map(|notice| OPTIONS.warning(sentence(notice))).collect();
    if let Err(failure) = settings.proofs() {
        verdicts.push(OPTIONS.failure(failure.to_string()));
    }
    match settings.sources() {
        Ok(sources) => {
            let several = sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            verdicts.push(OPTIONS.ok(format!("The image comes from {several}.")));
        }
        Err(_) if beside.files_alone && settings.refused_image.is_none() => {
            verdicts.push(OPTIONS.ok("No rootbeam.image= says where the image is; the files alone are judged."));
        }
        Err(failure) => verdicts.push(OPTIONS.failure(failure.to_string())),
    }
    if settings.on_failure == Some(OnFailure::Shell) && !beside.shell {
        verdicts.push(OPTIONS.warning(
            "rootbeam.on-failure=shell is asked for, and the archive has no shell: pack it with `rootbeam pack --shell`.",
        ));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Level;
    use super::*;

    fn of(line: &str) -> Vec<(Level, String)> {
        let (settings, notices) = Settings::parse(b"", line.as_bytes());
        judge(&settings, &notices, Beside::default()).into_iter().map(|verdict| (verdict.level, verdict.text)).collect()
    }

    #[test]
    fn a_misspelt_proof_boots_nothing() {
        let found = of("rootbeam.image=http://a/b rootbeam.sha256=12");
        assert!(found.iter().any(|(level, text)| *level == Level::Failure && text.contains("64 hexadecimal digits")));
    }

    #[test]
    fn an_address_in_any_form_is_no_trouble_and_what_is_not_followed_of_the_network_is_told() {
        let warnings = |words: &str| {
            let found = of(&format!("rootbeam.image=http://a/b {words}"));
            found.into_iter().filter(|(level, _)| *level == Level::Warning).map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(warnings("ip=10.0.0.5::10.0.0.1:24:web1:eth0"), [""; 0]);
        let vlan = "vlan=eth0.5:eth0 is not followed: rootbeam makes no VLAN link; let the switch port give the VLAN untagged.";
        assert_eq!(warnings("vlan=eth0.5:eth0"), [vlan]);
        let told = "ip=eth0:dhcp:9000 is followed, except for its MTU, which ip= does not set here.";
        assert_eq!(warnings("ip=eth0:dhcp:9000"), [told]);
    }

    #[test]
    fn of_files_alone_a_source_may_be_missing_and_not_be_wrong() {
        let beside = Beside { files_alone: true, ..Beside::default() };
        let of = |line: &str| {
            let (settings, notices) = Settings::parse(b"", line.as_bytes());
            let verdicts = judge(&settings, &notices, beside).into_iter();
            verdicts.map(|verdict| (verdict.level, verdict.text)).collect::<Vec<_>>()
        };
        let told = "No rootbeam.image= says where the image is; the files alone are judged.".to_owned();
        assert_eq!(of("quiet"), [(Level::Ok, told)]);
        let wrong = of("rootbeam.image=ftp://h/x");
        assert_eq!(wrong.iter().map(|(level, _)| *level).collect::<Vec<_>>(), [Level::Warning, Level::Failure]);
        assert!(wrong[1].1.starts_with("FAILED at settings: rootbeam.image=ftp://h/x: its value must be a URL that"));
    }

    #[test]
    fn says_what_init_would_say() {
        assert_eq!(of("rootbeam.image=http://a/b"), [(Level::Ok, "The image comes from http://a/b.".to_owned())]);
        let found = of("rootbeam.imgae=http://a/b rootbeam.on-failure=shell");
        let levels: Vec<Level> = found.iter().map(|(level, _)| *level).collect();
        assert_eq!(levels, [Level::Warning, Level::Failure, Level::Warning]);
        assert_eq!(found[0].1, "unknown option rootbeam.imgae=*** is ignored; did you mean rootbeam.image?");
        assert!(found[1].1.contains("no rootbeam.image= says where the image is"));
        assert!(found[2].1.contains("the archive has no shell"));
    }
}
