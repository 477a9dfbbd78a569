use super::*;

/// A root with the modules of `release`, removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rootbeam-modules-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn open(&self, release: &str, blacklist: &[&str]) -> Modules {
        let blacklist: Vec<String> = blacklist.iter().map(|name| (*name).to_owned()).collect();
        Modules::open(&self.0, release, Policy::new(&blacklist, &[])).unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_archive_without_modules_is_an_empty_index() {
    let root = Root::new("none");
    let mut modules = root.open("6.1.0", &[]);
    assert_eq!(modules.load("squashfs"), Ok(Outcome::Unknown));
    assert_eq!(modules.mismatch(), None);
    assert_eq!(modules.coldplug(), Summary::default());
}

#[test]
fn tells_that_the_archive_is_for_another_kernel() {
    let root = Root::new("other");
    root.file("lib/modules/6.1.0-2/modules.dep", "");
    let text = root.open("6.1.0-9", &[]).mismatch().map(|mismatch| mismatch.to_string());
    assert_eq!(text.as_deref(), Some("this initramfs has modules for kernel 6.1.0-2, and kernel 6.1.0-9 is running"));
    assert_eq!(root.open("6.1.0-2", &[]).mismatch(), None);
}

#[test]
fn a_kernel_with_all_drivers_built_in_has_none_to_load() {
    let root = Root::new("builtin");
    root.file("lib/modules/6/modules.dep", "");
    root.file("lib/modules/6/modules.builtin", "k/overlay.ko\n");
    root.file("lib/modules/7/modules.dep", "k/overlay.ko:\n");
    assert_eq!(["5", "6", "7"].map(|release| root.open(release, &[]).are_loadable()), [false, false, true]);
}

#[test]
fn what_is_loaded_or_built_in_is_not_loaded_again() {
    let root = Root::new("present");
    root.file("lib/modules/6/modules.dep", "k/loop.ko:\n");
    root.file("lib/modules/6/modules.builtin", "k/overlay.ko\n");
    root.file("proc/modules", "loop 32768 0 - Live 0xffffffffc0000000\n");
    let mut modules = root.open("6", &[]);
    assert_eq!(modules.load("loop"), Ok(Outcome::Present));
    assert_eq!(modules.load("overlay"), Ok(Outcome::Present));
}

#[test]
fn a_blacklisted_module_is_refused_by_name_and_left_alone_for_a_device() {
    let root = Root::new("refused");
    root.file("lib/modules/6/modules.dep", "k/e1000.ko:\n");
    root.file("lib/modules/6/modules.alias", "alias pci:v00008086d* e1000\n");
    root.file("sys/bus/pci/devices/pci0/modalias", "pci:v00008086d0000100E\n");
    let mut modules = root.open("6", &["e1000"]);
    let failure = modules.load("e1000").unwrap_err();
    assert_eq!(
        failure.to_string(),
        "FAILED at modules: e1000: the module is blacklisted. \
         Remedy: take e1000 out of modprobe.blacklist= and rd.driver.blacklist= on the command line."
    );
    assert_eq!(modules.coldplug(), Summary { devices: 1, ..Summary::default() });
}

#[test]
fn a_module_that_the_kernel_does_not_take_is_a_failure_that_names_it_once_per_device() {
    let root = Root::new("broken");
    root.file("lib/modules/6/modules.dep", "k/e1000.ko:\n");
    root.file("lib/modules/6/modules.alias", "alias pci:v00008086d* e1000\n");
    root.file("sys/bus/pci/devices/pci0/modalias", "pci:v00008086d0000100E\n");
    let mut modules = root.open("6", &[]);
    let summary = modules.coldplug();
    assert_eq!((summary.devices, summary.loaded.len(), summary.failures.len()), (1, 0, 1));
    assert_eq!(summary.failures[0].object, "e1000 of kernel 6");
    assert_eq!(summary.failures[0].step, Step::Modules);
    let again = Uevent { action: "add".into(), modalias: "pci:v00008086d0000100E".into(), ..Uevent::default() };
    assert_eq!(modules.on_uevent(&again), Ok(Vec::new()));
}
