//! Headers and tokens go to the servers of the image and nowhere else; everything goes through the proxy, if there is
//! one.

use crate::bed::{Bed, CHUNK, image, published, wanted};
use crate::good::checksummed;
use crate::server::{Reply, Server, file};
use rootbeam_init::access::Access;
use rootbeam_init::access::credentials::Credentials;
use rootbeam_init::messages::{FetchCause, FetchWarning};
use rootbeam_init::settings::reach::Header;
use rootbeam_init::settings::source::Source;
use std::net::TcpListener;

fn showing(source: &str) -> Access {
    let headers = [Header::parse("X-Node: seven").unwrap()];
    let credentials = Credentials::new(&[Source::parse(source).unwrap()], &headers, Some("t0ken"));
    Access { credentials, ..Access::default() }
}

#[test]
fn every_request_to_the_images_server_carries_them() {
    let image = image(20 * CHUNK + 1);
    let server = Server::of(published(&image));
    let url = server.url("/web.img");
    let mut bed = Bed::with_access({
        let url = url.clone();
        move || showing(&url)
    });
    assert_eq!(bed.run(wanted(&[url])), checksummed(&image));
    assert_eq!(bed.warnings, [FetchWarning::Open]);
    for path in ["/web.img", "/web.img.manifest", "/web.img.chunks"] {
        let requests = server.requests(path);
        assert!(!requests.is_empty(), "{path}");
        for (request, _) in requests {
            assert_eq!(request.credentials, ["Bearer t0ken", "seven"], "{path}");
        }
    }
}

#[test]
fn a_redirect_to_another_server_does_not_take_them_along() {
    let image = image(2 * CHUNK);
    let other = Server::of(published(&image));
    let there = other.url("");
    let server = Server::start(move |request| match request.path.strip_prefix("/first") {
        // Over another path of its own, where they are still shown.
        None => Reply::status("307 Temporary Redirect").header("Location", format!("/first{}", request.path)),
        Some(path) => Reply::status("302 Found").header("Location", format!("{there}{path}")),
    });
    let url = server.url("/web.img");
    let mut bed = Bed::with_access({
        let url = url.clone();
        move || showing(&url)
    });
    assert_eq!(bed.run(wanted(&[url])), checksummed(&image));
    let shown = |server: &Server, path: &str| server.requests(path).iter().map(|(r, _)| r.credentials.len()).max();
    assert_eq!(shown(&server, "/web.img"), Some(2));
    assert_eq!(shown(&server, "/first/web.img"), Some(2));
    assert_eq!(shown(&other, "/web.img"), Some(0));
}

#[test]
fn a_redirect_in_circles_ends() {
    let server = Server::start(|request| Reply::status("301 Moved Permanently").header("Location", &*request.path));
    let outcome = Bed::new().run(wanted(&[server.url("/web.img")]));
    let cause = rootbeam_init::messages::StoreCause::Fetch { source: 0, cause: FetchCause::Redirect };
    assert_eq!(outcome, crate::bed::Outcome::Failed(cause));
}

#[test]
fn an_http_proxy_gets_whole_urls_and_brings_the_image() {
    let image = image(3 * CHUNK);
    let files = published(&image);
    // A proxy that has everything of a server that is not there.
    let proxy = Server::start(move |request| match request.path.strip_prefix("http://boot.invalid:8080") {
        Some(path) if files.contains_key(path) => file(&files[path], request),
        _ => Reply::status("404 Not Found"),
    });
    let url = proxy.url("/");
    let mut bed = Bed::with_access(move || Access { proxy: Some(url.parse().unwrap()), ..Access::default() });
    assert_eq!(bed.run(wanted(&["http://boot.invalid:8080/web.img".to_owned()])), checksummed(&image));
}

#[test]
fn a_proxy_that_is_not_there_is_named_as_the_cause() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy: url::Url = format!("http://{closed}").parse().unwrap();
    let mut bed = Bed::with_access(move || Access { proxy: Some(proxy.clone()), ..Access::default() });
    bed.send(rootbeam_init::messages::StoreOrder::Start(wanted(&["https://boot.invalid/web.img".to_owned()])));
    while bed.troubles.is_empty() {
        bed.news();
    }
    assert_eq!(bed.troubles, [(0, FetchCause::Proxy)]);
}
