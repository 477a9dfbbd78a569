//! Would the images be streamed, where that is asked for? And what in the system would end what they come from?

use super::source::Image;
use super::system::{Entry, Tree};
use super::verdict::{About, Verdict};
use rootbeam_init::failure::Failure;
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::values::Mode;
use rootbeam_init::streaming::{lacking, loaded_first, whole_first};
use std::collections::BTreeSet;

const STREAM: About = About::Stream;
/// Where inits keep what they run at boot, at shutdown and between.
const SCRIPTS: [&str; 7] = [
    "etc/init.d/",
    "etc/inittab",
    "etc/local.d/",
    "etc/rc.d/",
    "etc/rc.local",
    "etc/runit/",
    "usr/lib/systemd/system-shutdown/",
];

/// Judges images by what stands in their way, in the words of a boot. `fuse` tells whether the kernel has it, as far as
/// that is known.
pub fn judge(settings: &Settings, fuse: Option<&Result<(), Failure>>, images: &[&Image]) -> Vec<Verdict> {
    if settings.mode == Mode::Ram {
        return Vec::new();
    }
    let first = |name: &str, why: &str, remedy: &str| {
        let text = format!("{}; {remedy}.", loaded_first(name, why).replacen('t', "T", 1));
        // As at boot: who asks for the one and gets the other is warned.
        if settings.mode == Mode::Stream { STREAM.warning(text) } else { STREAM.ok(text) }
    };
    let kernel = match fuse {
        Some(Err(failure)) => {
            let names =
                if images.is_empty() { vec!["image"] } else { images.iter().map(|i| i.what.as_str()).collect() };
            return names.into_iter().map(|name| first(name, &lacking(failure), &failure.remedy)).collect();
        }
        Some(Ok(())) => "the kernel has fuse",
        None => "nothing tells whether the kernel has fuse",
    };
    if images.is_empty() {
        let text = format!("Whether the image can be streamed its manifest tells, which was not read; {kernel}.");
        return vec![STREAM.ok(text)];
    }
    let one = |image: &&Image| match whole_first(settings, image.trust, image.has_manifest) {
        None => STREAM
            .ok(format!("The {} can be streamed: it has a hash for each of its chunks, and {kernel}.", image.what)),
        Some(why) if image.has_manifest => first(&image.what, why, "pin its manifest instead, by rootbeam.manifest="),
        Some(why) => {
            first(&image.what, why, "make a manifest with `rootbeam image manifest IMAGE` and put it beside the image")
        }
    };
    images.iter().map(one).collect()
}

/// The files that tell whether the system ends all processes.
pub fn scripts(tree: &Tree, settings: &Settings) -> BTreeSet<String> {
    let files = tree
        .entries
        .iter()
        .filter(|(path, entry)| matches!(entry, Entry::File(_)) && SCRIPTS.iter().any(|begin| path.starts_with(begin)));
    let init = super::init::candidates(settings).into_iter().find_map(|path| tree.resolve(&path));
    files.map(|(path, _)| path.clone()).chain(init.map(|(path, _)| path)).collect()
}

/// What a system would do to the workers that run beside it until its image is whole.
pub fn survival(tree: &Tree, settings: &Settings) -> Vec<Verdict> {
    if settings.mode == Mode::Ram {
        return Vec::new();
    }
    let kill = |path: String| {
        let text = tree.text(&path);
        // The init may be a program.
        let is_text = text.starts_with("#!") || SCRIPTS.iter().any(|begin| path.starts_with(begin));
        let line = text.lines().filter(|_| is_text).find(|line| kills_all(line))?;
        Some(About::System.warning(format!(
            "Where /{path} runs, it ends every process ({}), and with them those that a streamed image comes by: what was \
             not read by then is lost. Let it spare the processes in /run/sendsigs.omit.d (killall5 -o), or boot with \
             rootbeam.mode=ram.",
            without_comment(line).trim()
        )))
    };
    let closed = |(file, text): (&str, String)| {
        closed_outwards(file, &text).then(|| {
            About::System.warning(format!(
                "The firewall in /{file} is enabled and drops what goes out, so what is left of a streamed image does not \
                 come: accept new connections to its servers, or boot with rootbeam.mode=ram."
            ))
        })
    };
    let kills = scripts(tree, settings).into_iter().filter_map(kill);
    kills.chain(tree.firewalls().into_iter().filter_map(closed)).collect()
}

/// Whether a line of a script sends a signal to every process: `kill -9 -1` (kill(1)), or `killall5` (killall5(8)) that
/// spares none. The first argument of kill is a signal: `kill -1 7` asks one process to read its settings again.
fn kills_all(line: &str) -> bool {
    let code = without_comment(line);
    let is = |word: &str, name: &str| word.rsplit('/').next() == Some(name);
    !code.trim_start().starts_with('#')
        && code.split([';', '|', '&', '(', ')', '{', '}', '`', ':']).any(|command| {
            let words: Vec<&str> = command.split_whitespace().collect();
            let arguments = |name| words.iter().position(|word| is(word, name)).and_then(|at| words.get(at + 1..));
            arguments("kill").is_some_and(|of| of.iter().skip(1).any(|word| *word == "-1"))
                || arguments("killall5").is_some_and(|of| {
                    !of.is_empty() && !of.iter().any(|word| word.starts_with("-o") || word.contains("OMIT"))
                })
        })
}

fn without_comment(line: &str) -> &str {
    line.split(" #").next().unwrap_or_default()
}

/// Whether rules let no new connection out. Those that accept by more than the state or the loopback may let out what the
/// image comes by.
fn closed_outwards(file: &str, text: &str) -> bool {
    let accepts = |line: &str| {
        let line = line.to_ascii_lowercase();
        let state_alone = line.contains("established") && !line.contains("new");
        let loopback = line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "lo");
        !line.trim_start().starts_with('#')
            && (line.contains("jump ") || line.contains("accept") && !state_alone && !loopback)
    };
    if file.starts_with("etc/iptables") {
        let rules = |begin: &str| text.lines().filter(move |line| line.starts_with(begin)).collect::<Vec<_>>();
        return !rules(":OUTPUT DROP").is_empty() && !rules("-A OUTPUT").into_iter().any(accepts);
    }
    let chain = text.split("chain ").find(|chain| chain.contains("hook output") && chain.contains("policy drop"));
    chain.is_some_and(|chain| !chain.lines().any(accepts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_to_all_is_told_from_one_to_some() {
        for line in [
            "kill -9 -1",
            "  /bin/kill -s KILL -1 2>/dev/null || true",
            "[ -e /run/x ] && kill -- -1",
            "killall5 -9 # SIGKILL",
            "if ! /sbin/killall5 -15; then :; fi",
            "::shutdown:/bin/kill -TERM -1",
        ] {
            assert!(kills_all(line), "{line}");
        }
        for line in [
            "kill -1 7",
            "kill -9 -$group",
            "# kill -9 -1",
            "kill -HUP 1 # kill -9 -1",
            "killall5 -15 $OMITPIDS",
            "killall5 -9 -o $pid",
            "command -v killall5",
            "skill -9 -1",
        ] {
            assert!(!kills_all(line), "{line}");
        }
    }

    #[test]
    fn a_firewall_is_closed_outwards_where_nothing_new_gets_out() {
        let nft = |rule: &str| {
            let output =
                format!("  type filter hook output priority 0; policy drop;\n  oif \"lo\" accept\n  {rule}\n }}\n");
            format!("table inet f {{\n chain in {{\n  tcp dport 22 accept\n }}\n chain out {{\n{output}}}\n")
        };
        let closed = |rule: &str| closed_outwards("etc/nftables.conf", &nft(rule));
        assert!(closed("") && closed("ct state established,related accept"));
        assert!(!closed("tcp dport { 80, 443 } accept") && !closed("jump allowed"));
        assert!(!closed_outwards("etc/nftables.conf", &nft("").replace("policy drop", "policy accept")));
        let tables = |rule: &str| closed_outwards("etc/iptables/rules.v4", &format!(":OUTPUT DROP [0:0]\n{rule}\n"));
        assert!(tables("-A INPUT -p tcp -j ACCEPT") && tables("-A OUTPUT -o lo -j ACCEPT"));
        assert!(!tables("-A OUTPUT -d 10.0.0.1/32 -j ACCEPT"));
    }
}
