//! What the command line says about modules: which never to load, and with which parameters.

use super::names::canonical;
use std::collections::{BTreeMap, BTreeSet};

/// The operator's word on modules, from the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    refused: BTreeSet<String>,
    parameters: BTreeMap<String, String>,
}

impl Policy {
    /// Never loads the modules in `blacklist`, neither for a device nor for us; the pairs in `parameters` are a
    /// module's name and `parameter=value`, which the kernel itself hands only to modules that are built in.
    pub fn new(blacklist: &[String], parameters: &[(String, String)]) -> Self {
        let mut policy = Self { refused: blacklist.iter().map(|name| canonical(name)).collect(), ..Self::default() };
        for (module, parameter) in parameters {
            let line = policy.parameters.entry(canonical(module)).or_default();
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(parameter);
        }
        policy
    }

    /// Whether the operator keeps this module out. `name` is canonical.
    pub fn refuses(&self, name: &str) -> bool {
        self.refused.contains(name)
    }

    /// The parameters of a module, as `finit_module` takes them. `name` is canonical.
    pub fn parameters(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_blacklist_and_parameters_in_any_spelling() {
        let pair = |module: &str, parameter: &str| (module.to_owned(), parameter.to_owned());
        let parameters = [pair("loop", "max_loop=8"), pair("virtio-net", "napi_tx=0"), pair("loop", "max_part=3")];
        let policy = Policy::new(&["e1000".into(), "virtio-net".into()], &parameters);
        assert!(policy.refuses("e1000") && policy.refuses("virtio_net") && !policy.refuses("loop"));
        assert_eq!(policy.parameters("loop"), "max_loop=8 max_part=3");
        assert_eq!(policy.parameters("virtio_net"), "napi_tx=0");
        assert_eq!(policy.parameters("e1000"), "");
    }
}
