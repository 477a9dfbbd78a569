//! Which modules to load for a request, and in what order.

use super::index::ModuleIndex;
use super::names::canonical;
use super::policy::Policy;
use std::collections::BTreeSet;
use std::fmt;

/// Why a module is part of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It was asked for, or its alias matched.
    Asked,
    /// Another of the plan cannot be loaded without it.
    Needed,
    /// Another of the plan works better with it (softdep); it may fail.
    Wanted,
}

/// One module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Canonical name.
    pub name: String,
    /// Path of the file below the release's folder.
    pub path: String,
    /// Parameters, blank-separated.
    pub parameters: String,
    /// Why it is loaded.
    pub why: Why,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, parameters, .. } = self;
        let gap = if parameters.is_empty() { "" } else { " " };
        write!(f, "load module {name}{gap}{parameters}")
    }
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// These modules, in this order.
    Load(Vec<Load>),
    /// Nothing is left to do: built into the kernel, or loaded already.
    Present,
    /// Neither a module nor an alias of this archive.
    Unknown,
    /// The operator keeps `module` out; `asked` was asked for and is or needs it.
    Refused {
        /// The canonical request.
        asked: String,
        /// The blacklisted module.
        module: String,
    },
}

/// Plans the loading of `request`, a module's name or an alias, in either spelling. `loaded` holds the canonical
/// names of what the kernel has already.
///
/// A name comes before an alias; an alias may stand for several modules, which are all loaded. The blacklist keeps a
/// module out whoever asks for it: an operator who names a driver there wants it out of the machine.
pub fn plan(index: &ModuleIndex, policy: &Policy, loaded: &BTreeSet<String>, request: &str) -> Plan {
    let asked = canonical(request);
    let targets = match index.module(&asked) {
        Some(_) => vec![asked.as_str()],
        None if loaded.contains(&asked) => return Plan::Present,
        None => index.by_alias(&asked),
    };
    if targets.is_empty() {
        return match index.is_builtin(&asked) {
            true => Plan::Present,
            false if policy.refuses(&asked) => Plan::Refused { module: asked.clone(), asked },
            false => Plan::Unknown,
        };
    }
    let mut order = Order { index, policy, loaded, visited: BTreeSet::new(), loads: Vec::new() };
    let mut refused = None;
    let mut allowed = false;
    for target in targets {
        match order.visit(target, Why::Asked) {
            Ok(()) => allowed = true,
            Err(module) => refused = refused.or(Some(module)),
        }
    }
    match refused {
        Some(module) if !allowed => Plan::Refused { asked, module },
        _ if order.loads.is_empty() => Plan::Present,
        _ => Plan::Load(order.loads),
    }
}

/// The walk that puts modules in order; a module is visited once, which also ends cycles of softdeps.
struct Order<'a> {
    index: &'a ModuleIndex,
    policy: &'a Policy,
    loaded: &'a BTreeSet<String>,
    visited: BTreeSet<String>,
    loads: Vec<Load>,
}

impl Order<'_> {
    /// Adds `name` with all it needs, or nothing and the name of the blacklisted module.
    fn visit(&mut self, name: &str, why: Why) -> Result<(), String> {
        if self.loaded.contains(name) {
            return Ok(());
        }
        let Some(module) = self.index.module(name) else {
            // Needed, but neither here nor loaded: built in, or the kernel will say what is missing.
            return if self.policy.refuses(name) { Err(name.to_owned()) } else { Ok(()) };
        };
        let needs = std::iter::once(name).chain(module.needs.iter().map(String::as_str));
        if let Some(refused) = needs.filter(|need| !self.loaded.contains(*need)).find(|need| self.policy.refuses(need))
        {
            return Err(refused.to_owned());
        }
        if !self.visited.insert(name.to_owned()) {
            return Ok(());
        }
        for need in &module.needs {
            self.visit(need, Why::Needed)?;
        }
        self.wanted(&module.before);
        self.loads.push(Load {
            name: name.to_owned(),
            path: module.path.clone(),
            parameters: self.policy.parameters(name).to_owned(),
            why,
        });
        self.wanted(&module.after);
        Ok(())
    }

    fn wanted(&mut self, names: &[String]) {
        for name in names {
            let targets = match self.index.module(name) {
                Some(_) => vec![name.as_str()],
                None => self.index.by_alias(name),
            };
            for target in targets {
                // A softdep that is blacklisted is left out and nothing else.
                let _ = self.visit(target, Why::Wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::Files;
    use super::*;

    fn index() -> ModuleIndex {
        ModuleIndex::parse(Files {
            dep: b"k/virtio_net.ko: k/net_failover.ko k/failover.ko k/virtio_ring.ko k/virtio.ko\n\
                k/net_failover.ko: k/failover.ko\nk/failover.ko:\nk/virtio_ring.ko: k/virtio.ko\nk/virtio.ko:\n\
                k/erofs.ko: k/libcrc32c.ko\nk/libcrc32c.ko:\nk/crc32c-intel.ko:\nk/crc32c_generic.ko:\n\
                k/one.ko:\nk/two.ko:\n",
            alias: b"alias virtio:d00000001v* virtio_net\nalias crc32c crc32c_intel\nalias crc32c crc32c_generic\n\
                alias both one\nalias both two\n",
            softdep: b"softdep libcrc32c pre: crc32c\nsoftdep one post: two\nsoftdep two post: one\n",
            builtin: b"kernel/net/packet/af_packet.ko\n",
            builtin_modinfo: b"af_packet.alias=net-pf-17\0",
        })
    }

    fn names(request: &str, blacklist: &[&str], loaded: &[&str]) -> Result<Vec<String>, Plan> {
        let blacklist: Vec<String> = blacklist.iter().map(|name| (*name).to_owned()).collect();
        let policy = Policy::new(&blacklist, &[("virtio-net".to_owned(), "napi_tx=0".to_owned())]);
        let loaded = loaded.iter().map(|s| (*s).to_owned()).collect();
        match plan(&index(), &policy, &loaded, request) {
            Plan::Load(loads) => Ok(loads.iter().map(|load| format!("{load} ({:?})", load.why)).collect()),
            other => Err(other),
        }
    }

    #[test]
    fn loads_from_right_to_left_and_itself_last() {
        let expected = [
            "load module virtio (Needed)",
            "load module virtio_ring (Needed)",
            "load module failover (Needed)",
            "load module net_failover (Needed)",
            "load module virtio_net napi_tx=0 (Asked)",
        ];
        let by_name = names("virtio-net", &[], &[]);
        assert_eq!(by_name.as_deref(), Ok(&expected.map(String::from)[..]));
        assert_eq!(names("virtio:d00000001v00001AF4", &[], &[]), by_name);
    }

    #[test]
    fn skips_what_is_loaded_or_built_in() {
        let rest = ["load module net_failover (Needed)", "load module virtio_net napi_tx=0 (Asked)"].map(String::from);
        assert_eq!(names("virtio_net", &[], &["virtio", "virtio_ring", "failover"]).as_deref(), Ok(&rest[..]));
        for present in ["af-packet", "net-pf-17"] {
            assert_eq!(names(present, &[], &[]), Err(Plan::Present), "{present}");
        }
        assert_eq!(names("virtio", &[], &["virtio"]), Err(Plan::Present));
        assert_eq!(names("nothing", &[], &[]), Err(Plan::Unknown));
    }

    #[test]
    fn softdeps_come_before_and_after_and_their_cycles_end() {
        let erofs = [
            "load module crc32c_intel (Wanted)",
            "load module crc32c_generic (Wanted)",
            "load module libcrc32c (Needed)",
            "load module erofs (Asked)",
        ];
        assert_eq!(names("erofs", &[], &[]).as_deref(), Ok(&erofs.map(String::from)[..]));
        let pair = ["load module one (Asked)", "load module two (Wanted)"];
        assert_eq!(names("both", &[], &[]).as_deref(), Ok(&pair.map(String::from)[..]));
    }

    #[test]
    fn the_blacklist_refuses_names_aliases_and_what_needs_them() {
        let refused = |asked: &str, module: &str| Err(Plan::Refused { asked: asked.into(), module: module.into() });
        let policy = &["virtio-net", "failover"];
        assert_eq!(names("virtio_net", policy, &[]), refused("virtio_net", "virtio_net"));
        assert_eq!(names("virtio:d00000001v1", policy, &[]), refused("virtio:d00000001v1", "virtio_net"));
        assert_eq!(names("net-failover", policy, &[]), refused("net_failover", "failover"));
        assert_eq!(names("vboxsf", &["vboxsf"], &[]), refused("vboxsf", "vboxsf"));
    }

    #[test]
    fn a_blacklisted_softdep_or_one_of_several_matches_is_left_out() {
        let rest = ["load module crc32c_generic (Wanted)", "load module libcrc32c (Asked)"].map(String::from);
        assert_eq!(names("libcrc32c", &["crc32c-intel"], &[]).as_deref(), Ok(&rest[..]));
        assert_eq!(names("both", &["one"], &[]), Ok(vec!["load module two (Asked)".into()]));
    }
}
