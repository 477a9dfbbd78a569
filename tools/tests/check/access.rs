//! The sources are asked as a boot asks them: with what is packed, through the proxy, by the same rules.

use crate::nginx::Nginx;
use crate::scene::{Scene, check, only};
use std::path::PathBuf;
use std::process::Command;

const TOKEN: &str = "s3cret-token";
const HEADER: &str = "rootbeam.header=X-Node:s3cret-node";
/// Answers only who shows both.
const DEMANDING: &str = "if ($http_authorization != \"Bearer s3cret-token\") { return 401; }
                         if ($http_x_node != s3cret-node) { return 403; }";

/// A scene whose image is published, with the certificates that all tests of https have in `tls`.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.publish("zstd");
    scene.file("tls/here", b"");
    scene.file("token", TOKEN.as_bytes());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../init/tests/certificates");
    assert!(Command::new(script).arg(scene.path("tls")).status().unwrap().success(), "openssl makes certificates");
    scene
}

fn tls(scene: &Scene, certificate: &str, more: &str) -> Nginx {
    Nginx::start_tls(&scene.path("tls"), certificate, &format!("root {}; {more}", scene.text("www")))
}

/// An archive that trusts the root, with more of what `rootbeam pack` takes.
fn trusting(scene: &Scene, more: &[&str]) -> PathBuf {
    scene.pack(&[&["--ca", &scene.text("tls/root.pem")], more].concat())
}

/// The first finding that is no good, in a check that says it does not boot.
#[track_caller]
fn refused(found: &(i32, Vec<String>), expected: &str) {
    assert_eq!(found.0, 3, "{found:#?}");
    assert!(found.1[0].contains(expected), "no {expected:?} first in {:#?}", found.1);
}

pub fn a_server_that_demands_certificate_token_and_header_gets_them() {
    let scene = scene();
    let clients = format!("ssl_client_certificate {}; ssl_verify_client on;", scene.text("tls/root.pem"));
    let server = tls(&scene, "good", &format!("{clients} {DEMANDING}"));
    let image = format!("rootbeam.image={}", server.url("https", "web.squashfs"));
    let identity = |name: &str| ["pem", "key"].map(|kind| scene.text(&format!("tls/{name}.{kind}")));
    let pack = |name: &str, more: &[&str]| {
        let [certificate, key] = identity(name);
        trusting(&scene, &[&["--client-cert", &certificate, "--client-key", &key], more].concat())
    };
    let token = scene.text("token");
    let words = format!("{image} {HEADER}");

    let archive = pack("client", &["--token", &token]);
    let (code, found) = check(&archive, &words, &[], true);
    assert_eq!(code, 0, "{found:#?}");
    assert!(found.iter().any(|line| line.contains(": It has 4.0 KiB by ranges.")), "{found:#?}");
    assert!(!found.join(" ").contains("s3cret"), "{found:#?}");
    let first = server.logged("GET /web.squashfs.manifest");
    assert!(first.ends_with("|Bearer s3cret-token|s3cret-node"), "{first}");

    refused(&check(&archive, &image, &[], false), "the server answered 403 Forbidden; let the server's permissions");
    let archive = pack("client", &[]);
    refused(&check(&archive, &words, &[], false), "its manifest: the server answered 401 Unauthorized;");
    // Whoever shows no certificate by the root is answered 400 by nginx itself.
    for archive in [pack("stranger", &["--token", &token]), trusting(&scene, &["--token", &token])] {
        refused(
            &check(&archive, &words, &[], false),
            "its manifest: the server answered 400; look at the server's log",
        );
    }
}

pub fn only_a_packed_root_and_the_right_name_are_believed() {
    let scene = scene();
    let server = tls(&scene, "good", "");
    let words = format!("rootbeam.image={}", server.url("https", "web.squashfs"));
    assert_eq!(check(&trusting(&scene, &[]), &words, &[], false), (0, vec![]));
    let remedy =
        "no trusted root has signed the server's certificate; pack the root certificate with `rootbeam pack --ca";
    for pack in [&["--ca", &scene.text("tls/other.pem")][..], &[]] {
        refused(&check(&scene.pack(pack), &words, &[], false), remedy);
    }
    let server = tls(&scene, "wrong", "");
    let words = format!("rootbeam.image={}", server.url("https", "web.squashfs"));
    let expected = "the server's certificate is for another name; use the name that the certificate has.";
    refused(&check(&trusting(&scene, &[]), &words, &[], false), expected);
}

pub fn a_certificate_that_fails_for_time_prints_both_times_and_a_pin_lets_it_pass() {
    let scene = scene();
    let archive = trusting(&scene, &[]);
    for (certificate, bound) in
        [("expired", "until 2021-01-01 00:00:00 UTC"), ("future", "from 2040-01-01 00:00:00 UTC")]
    {
        let server = tls(&scene, certificate, "");
        let words = format!("rootbeam.image={}", server.url("https", "web.squashfs"));
        let found = check(&archive, &words, &[], false);
        refused(&found, &format!("the server's certificate is valid only {bound}, and this machine's clock says 20"));
        assert!(found.1[0].contains(" UTC; renew the certificate, or set the machine's clock"), "{found:#?}");

        let manifest = std::fs::read(scene.path("www/web.squashfs.manifest")).unwrap();
        let pin = rootbeam_init::digest::Sha256::of(&manifest);
        let pinned = check(&archive, &format!("{words} rootbeam.manifest=sha256:{pin}"), &[], false);
        only(pinned, 4, "A boot will say: the server's certificate is valid only ");
        // A layer is not pinned by the image's hash.
        let layer = words.replace("image", "layer");
        let found = check(&archive, &format!("{words} {layer} rootbeam.manifest=sha256:{pin}"), &[], false);
        refused(&found, &format!("valid only {bound}"));
    }
}

pub fn credentials_go_to_the_named_servers_alone_and_no_redirect_leaves_https() {
    let scene = scene();
    let there = Nginx::start(&format!("root {};", scene.text("www")));
    let to = format!("return 302 {}$request_uri;", there.url("http", "").trim_end_matches('/'));
    let here = Nginx::start(&to);
    let archive = trusting(&scene, &["--token", &scene.text("token")]);
    let words = format!("rootbeam.image={} {HEADER}", here.url("http", "web.squashfs"));
    let warning = "A boot will say: the token or header for 127.0.0.1 can be read by everybody on the way: use https.";
    only(check(&archive, &words, &[], false), 4, warning);
    let manifest = "GET /web.squashfs.manifest HTTP/1.1|";
    assert_eq!(here.logged(manifest), format!("{manifest}Bearer s3cret-token|s3cret-node"));
    assert_eq!(there.logged(manifest), format!("{manifest}-|-"));

    let here = tls(&scene, "good", &to);
    let words = format!("rootbeam.image={}", here.url("https", "web.squashfs"));
    let expected = "the server redirects in circles, or from https to http; name the final URL in rootbeam.image=.";
    refused(&check(&archive, &words, &[], false), expected);
}

pub fn the_proxy_of_the_options_is_gone_through_and_no_other() {
    let scene = scene();
    let (archive, server) = (scene.pack(&[]), scene.serve());
    let proxy = Nginx::start("location / { proxy_pass http://$http_host$request_uri; }");
    let url = format!("http://{}/web.squashfs", server.address());
    let through = |proxy: &str| check(&archive, &format!("rootbeam.image={url} rootbeam.proxy={proxy}"), &[], false);
    assert_eq!(through(&proxy.url("http", "")), (0, vec![]));
    proxy.logged(&format!("GET {url}.manifest HTTP/1.1|"));
    proxy.logged(&format!("GET {url} HTTP/1.1|"));
    refused(&through("http://127.0.0.1:1"), "the proxy cannot be reached, or makes no connection to the server; check");
}
