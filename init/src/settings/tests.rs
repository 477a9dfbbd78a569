use super::*;

fn parse(line: &str) -> (Settings, Vec<String>) {
    let (settings, notices) = Settings::parse(b"", line.as_bytes());
    (settings, notices.iter().map(ToString::to_string).collect())
}

#[test]
fn a_usual_line_gives_exactly_these_settings() {
    let (settings, notices) = parse(
        "BOOT_IMAGE=vmlinuz rootbeam.image=http://10.0.2.2/a.squashfs,https://b/a.squashfs quiet \
         rootbeam.overlay.size=50% init=/sbin/init panic=-1 BOOTIF=01-52-54-00-12-34-56 loop.max_loop=4 \
         modprobe.blacklist=a,b rd.driver.blacklist=c nameserver=9.9.9.9 rootbeam.on-failure=reboot:5",
    );
    let expected = Settings {
        image: vec![
            Source::parse("http://10.0.2.2/a.squashfs").unwrap(),
            Source::parse("https://b/a.squashfs").unwrap(),
        ],
        overlay: Some(Amount::Percent(50)),
        on_failure: Some(OnFailure::Reboot { seconds: 5 }),
        panic: Some(-1),
        log: log::LevelFilter::Warn,
        quiet: true,
        init: Some("/sbin/init".into()),
        bootif: Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        nameservers: vec![[9, 9, 9, 9].into()],
        blacklist: vec!["a".into(), "b".into(), "c".into()],
        module_parameters: vec![("loop".into(), "max_loop=4".into())],
        ..Settings::default()
    };
    assert_eq!((settings, notices), (expected, vec![]));
}

#[test]
fn the_later_word_wins_and_the_line_wins_over_the_archive() {
    let packed = b"# packed\nrootbeam.image=http://packed/a\nrootbeam.stall=3\n";
    let (settings, _) = Settings::parse(packed, b"rootbeam.image=http://x/a rootbeam.image=http://line/a");
    assert_eq!(settings.image, [Source::parse("http://line/a").unwrap()]);
    assert_eq!(settings.stall, 3);
}

#[test]
fn a_packed_require_is_not_loosened_by_the_line() {
    let (settings, _) = Settings::parse(b"rootbeam.verify=require", b"rootbeam.verify=default");
    assert!(settings.require_verified);
}

#[test]
fn a_pinned_manifest_is_a_hash_of_a_named_kind() {
    let (settings, notices) = parse(&format!("rootbeam.manifest=sha256:{}", "ab".repeat(32)));
    assert_eq!((settings.manifest, notices), (Some(Sha256([0xab; 32])), vec![]));
    assert_eq!(settings.proofs(), Ok(()));
}

#[test]
fn what_to_verify_by_is_understood_or_nothing_boots() {
    let digits = "ab".repeat(32);
    for word in [
        "rootbeam.sha256=abc".to_owned(),
        "rootbeam.sha256".to_owned(),
        "rootbeam.verify=required".to_owned(),
        format!("rootbeam.manifest={digits}"),
        format!("rootbeam.manifest=sha256:{digits}0"),
        format!("rootbeam.manifest=sha512:{digits}"),
    ] {
        // A word of the same name that is clear does not tell which of the two was meant.
        let (settings, notices) = parse(&format!("rootbeam.sha256={digits} {word} rootbeam.sha256={digits}"));
        assert_eq!(notices.len(), 1, "{word}");
        assert_eq!(settings.proofs().unwrap_err().object, word);
    }
    let failure = parse("rootbeam.verify=no").0.proofs().unwrap_err();
    assert_eq!(
        failure.to_string(),
        "FAILED at settings: rootbeam.verify=no: its value must be require or default. Remedy: correct it on the \
         kernel command line, or in the file that was packed with `rootbeam pack --config`."
    );
}

#[test]
fn layers_gather_and_one_that_is_unclear_or_too_many_boots_nothing() {
    let packed = b"rootbeam.layer=http://h/a";
    let (settings, notices) = Settings::parse(packed, b"rootbeam.layer=http://h/b,http://i/b?optional");
    assert_eq!(notices, []);
    let layer = |text| Layer::parse(text).unwrap();
    assert_eq!(settings.layers, [layer("http://h/a"), layer("http://h/b,http://i/b?optional")]);
    assert_eq!(settings.proofs(), Ok(()));
    let failure = parse("rootbeam.layer=site.squashfs").0.proofs().unwrap_err();
    assert_eq!(failure.cause, "its value must be a URL such as http://server/web.squashfs");
    let failure = parse(&"rootbeam.layer=http://h/a ".repeat(9)).0.proofs().unwrap_err();
    assert_eq!(failure.cause, "its value must be one of at most 8 layers");
}

#[test]
fn unknown_options_name_the_nearest_known() {
    let (_, notices) = parse("rootbeam.imgae=http://x/a rootbeam.teleport");
    let expected = [
        "unknown option rootbeam.imgae=*** is ignored; did you mean rootbeam.image?",
        "unknown option rootbeam.teleport is ignored; the README lists all options",
    ];
    assert_eq!(notices, expected);
}

#[test]
fn a_wrong_value_says_what_belongs_there_and_changes_nothing() {
    let (settings, notices) = parse("rootbeam.stall=soon rootbeam.overlay.size=much ip=dhcp6");
    assert_eq!(settings, Settings::default());
    assert_eq!(notices.len(), 3);
    assert_eq!(notices[0], "rootbeam.stall=soon is ignored: its value must be a number of seconds, at least 1");
}

#[test]
fn a_panic_that_is_no_number_of_seconds_changes_nothing() {
    for bad in ["panic=1m", "panic=", "panic", "panic=never"] {
        let (settings, notices) = parse(&format!("panic=5 {bad}"));
        let expected = if bad == "panic" {
            "given, as text behind ="
        } else {
            "a number of seconds, 0 for never, below 0 for at once"
        };
        assert_eq!(
            (settings.panic, notices),
            (Some(5), vec![format!("{bad} is ignored: its value must be {expected}")])
        );
    }
}

#[test]
fn words_of_another_initramfs_that_are_not_followed_name_what_is() {
    let (settings, notices) =
        parse("vlan=eth0.5:eth0 bond=bond0:eth0,eth1:mode=802.3ad root=live:http://u:secret@h/x.img root=/dev/sda1");
    assert_eq!(settings, Settings::default());
    let expected = [
        "vlan=eth0.5:eth0 is not followed: rootbeam makes no VLAN link; let the switch port give the VLAN untagged",
        "bond=bond0:eth0,eth1:mode=802.3ad is not followed: rootbeam makes no bond; it boots by one link of it (BOOTIF= \
         chooses), which the switch must let work alone, and the booted system can make the bond",
        "root=live:http://***@h/x.img is not followed: rootbeam.image=URL says where the image is",
    ];
    assert_eq!(notices, expected);
}

#[test]
fn an_address_is_kept_though_its_mtu_is_ignored_and_the_notice_says_both() {
    let (settings, notices) = parse("ip=10.0.0.5::10.0.0.1:24::eth0:none:9000");
    assert_eq!(settings.ip, parse("ip=10.0.0.5::10.0.0.1:24::eth0:none").0.ip);
    let notice =
        "ip=10.0.0.5::10.0.0.1:24::eth0:none:9000 is followed, except for its MTU, which ip= does not set here";
    assert_eq!(notices, [notice]);
    let (settings, notices) = parse("ip=eth0:dhcp:9000:52:54:00:12:34:56");
    assert_eq!(settings.ip.and_then(|ip| ip.link), crate::label::Label::new("eth0").ok());
    let notice = "ip=eth0:dhcp:9000:52:54:00:12:34:56 is followed, except for its MTU and MAC address, which ip= does not set here";
    assert_eq!(notices, [notice]);
}

#[test]
fn a_trace_takes_a_time_with_an_end() {
    assert_eq!(parse("rootbeam.stream.trace=60").0.stream_trace, Some(60));
    for bad in ["0", "86401", "-1", "1m", ""] {
        let (settings, notices) = parse(&format!("rootbeam.stream.trace={bad}"));
        assert_eq!(settings.stream_trace, None, "{bad}");
        assert!(notices[0].ends_with("its value must be a number of seconds from 1 to 86400"), "{notices:?}");
    }
}

#[test]
fn a_notice_keeps_what_may_be_a_secret_to_itself() {
    let (settings, notices) = parse(
        "rootbeam.header=Host:secret rootbeam.heade=Authorization:secret rootbeam.image=http://u:secret@h/x \
         rootbeam.image=ftp://h/x?key=secret proxy=http://u:secret@p rootbeam.header rootbeam.header=X-Key:secret",
    );
    assert!(!format!("{settings:?} {notices:?}").contains("secret"), "{settings:?} {notices:?}");
    assert_eq!(notices.len(), 6, "{notices:?}");
    assert!(notices[0].starts_with("rootbeam.header=*** is ignored: its value must be "), "{}", notices[0]);
    assert_eq!(notices[1], "unknown option rootbeam.heade=*** is ignored; did you mean rootbeam.header?");
    assert!(notices[2].starts_with("rootbeam.image=http://***@h/x is ignored"), "{}", notices[2]);
    let line = "quiet \"rootbeam.header=X-Key: secret\" rootbeam.image=http://h/x?key=secret,http://h/y";
    assert_eq!(public_words(line), "quiet rootbeam.header=*** rootbeam.image=http://h/x?key=***,http://h/y");
}

#[test]
fn headers_gather_and_the_later_of_one_name_wins() {
    let packed = b"rootbeam.header=X-Site:a rootbeam.header=X-Node:1";
    let (settings, notices) = Settings::parse(packed, b"rootbeam.header=\"x-node: 2\" proxy=http://p:1");
    assert_eq!(notices, []);
    assert_eq!(settings.headers, ["X-Site:a", "X-Node:2"].map(|text| Header::parse(text).unwrap()));
    assert_eq!(settings.proxy.unwrap().as_str(), "http://p:1/");
}

#[test]
fn every_listed_option_is_read() {
    for option in options::OPTIONS {
        let (_, notices) = parse(&format!("{}=\u{1}", option.name));
        assert!(notices.iter().all(|n| !n.contains("unknown option")), "{notices:?}");
        assert!(!notices.is_empty(), "{} takes anything", option.name);
    }
}

#[test]
fn an_image_that_is_no_source_is_the_failure_unless_another_is_one() {
    let said = |line: &str| parse(line).0.sources().unwrap_err().to_string();
    let remedy = "Remedy: correct it on the kernel command line, or in the file that was packed with `rootbeam pack \
                  --config`.";
    for (word, expected) in [
        ("rootbeam.image=http://h/", "the URL of a file, not of a folder"),
        ("rootbeam.image=ftp://h/x", "a URL that begins with http:// or https://"),
        ("rootbeam.image=http://h/x,ftp://h/x", "a URL that begins with http:// or https://"),
        ("rootbeam.image=", "a URL such as http://server/web.squashfs"),
        ("rootbeam.image=,", "a URL such as http://server/web.squashfs"),
        ("rootbeam.image", "given, as text behind ="),
    ] {
        assert_eq!(said(word), format!("FAILED at settings: {word}: its value must be {expected}. {remedy}"));
        let (settings, notices) = parse(&format!("rootbeam.image=http://h/x {word}"));
        assert_eq!(settings.sources(), Ok(&[Source::parse("http://h/x").unwrap()][..]), "{word}");
        assert_eq!(notices, [format!("{word} is ignored: its value must be {expected}")]);
    }
    let hidden = said("rootbeam.image=ftp://u:secret@h/x?key=secret");
    assert!(hidden.contains("rootbeam.image=ftp://***@h/x?key=***: its value"), "{hidden}");
}

#[test]
fn without_an_image_the_remedy_is_named() {
    let failure = Settings::default().sources().unwrap_err();
    assert_eq!(
        failure.to_string(),
        "FAILED at settings: kernel command line: no rootbeam.image= says where the image is. \
         Remedy: append rootbeam.image=http://SERVER/IMAGE to the kernel command line."
    );
}
