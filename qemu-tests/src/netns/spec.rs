//! What `ns-run` is told: an order on its command line, as JSON; and what it tells back, a line each.

use crate::outcome::Outcome;
use serde::{Deserialize, Serialize};

/// How to start a machine in namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Path of the network namespace to enter.
    pub netns: String,
    /// Folder over which the root is mounted; nobody else sees that.
    pub stage: String,
    /// The initramfs, compressed or not.
    pub archive: String,
    /// The terminal that becomes `/dev/console`.
    pub console: String,
    /// The contents of `/proc/cmdline`, without the line's end.
    pub cmdline: String,
    /// The contents of `/proc/meminfo`, if not the host's.
    pub meminfo: Option<String>,
}

/// What `ns-run` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// `/init` is started in the next instant: `CLOCK_MONOTONIC` in nanoseconds.
    Started(u64),
    /// PID 1 and with it every process of the machine ended.
    Ended(Outcome),
}

/// The words that the kernel gives to init, of a command line: arguments and environment.
///
/// The kernel keeps what it knows itself, takes `a.b=c` for a module's option, gives `name=value` as environment and
/// anything else as argument, and everything after `--` as arguments.
pub fn kernel_words(cmdline: &str) -> (Vec<String>, Vec<(String, String)>) {
    const KERNEL: [&str; 9] = ["console", "quiet", "debug", "loglevel", "panic", "ro", "rw", "root", "init"];
    let (mut args, mut env) = (Vec::new(), vec![("HOME".to_owned(), "/".to_owned()), ("TERM".into(), "linux".into())]);
    let mut words = cmdline.split_whitespace();
    for word in words.by_ref().take_while(|&word| word != "--") {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        match value {
            _ if KERNEL.contains(&name) || name.contains('.') => {}
            Some(value) => env.push((name.to_owned(), value.to_owned())),
            None => args.push(word.to_owned()),
        }
    }
    args.extend(words.map(str::to_owned));
    (args, env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_init_as_from_the_kernel() {
        let (args, env) = kernel_words("quiet ip=dhcp rootbeam.image=http://x/y single init=/bin/x -- -a b=c quiet");
        assert_eq!(args, ["single", "-a", "b=c", "quiet"]);
        let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(env, [("HOME", "/"), ("TERM", "linux"), ("ip", "dhcp")]);
    }
}
