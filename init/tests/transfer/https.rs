//! https with packed roots only, by which clock, and with which client certificate. openssl makes the certificates.

use crate::bed::{Bed, CHUNK, Outcome, image, published, wanted};
use crate::good::checksummed;
use crate::server::{Reply, Server, file};
use rootbeam_init::access::Access;
use rootbeam_init::access::certificates::Identity;
use rootbeam_init::access::time::TimeServers;
use rootbeam_init::messages::{FetchCause, SourceIndex, StoreCause, TlsFault, Validity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::thread;

/// Where `init/tests/certificates` has made them.
static CERTIFICATES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let made = Command::new(script).arg(folder.path()).status().unwrap();
    let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    assert!(made.success(), "openssl: {}", log());
    folder
});

/// 2021-01-01 and 2040-01-01, in seconds since 1970.
const UNTIL: u64 = 1_609_459_200;
const FROM: u64 = 2_208_988_800;

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(CERTIFICATES.path().join(name)).unwrap()
}

fn chain(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(&pem(name)).collect::<Result<_, _>>().unwrap()
}

/// A server of some of TLS's versions with the certificate `name`; `clients` says whether it asks for one by root.
fn config(name: &str, versions: &[&'static SupportedProtocolVersion], clients: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = if clients {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain("root.pem"));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
    Arc::new(builder.with_single_cert(chain(name), key).unwrap())
}

fn server(config: Arc<ServerConfig>, image: &[u8]) -> Server {
    let files = published(image);
    Server::start_tls("127.0.0.1:0", config, move |request| match files.get(&request.path) {
        Some(bytes) => file(bytes, request),
        None => Reply::status("404 Not Found"),
    })
}

/// What comes of a fetch from a server with the certificate `name`.
fn fetched(name: &str, access: impl Fn() -> Access + 'static) -> Outcome {
    let server = server(config(name, &[&TLS12, &TLS13], false), &image(CHUNK));
    Bed::with_access(access).run(wanted(&[server.url("/web.img")]))
}

#[track_caller]
fn fault(outcome: Outcome) -> TlsFault {
    match outcome {
        Outcome::Failed(StoreCause::Fetch { source: 0, cause: FetchCause::Tls(fault) }) => fault,
        other => panic!("{other:?}"),
    }
}

fn trusting() -> Access {
    Access { roots: pem("root.pem"), ..Access::default() }
}

fn pinned() -> Access {
    Access { pinned: true, ..trusting() }
}

#[test]
fn an_image_arrives_over_each_version_of_tls_under_a_packed_root() {
    for version in [&TLS12, &TLS13] {
        let image = image(20 * CHUNK + 1);
        let server = server(config("good.pem", &[version], false), &image);
        let mut bed = Bed::with_access(trusting);
        assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image), "{version:?}");
        bed.assert_holds(&image);
    }
}

#[test]
fn one_of_several_roots_is_enough() {
    let roots = || Access { roots: [pem("other.pem"), pem("root.pem")].concat(), ..Access::default() };
    assert_eq!(fetched("good.pem", roots), checksummed(&image(CHUNK)));
}

#[test]
fn no_root_another_root_and_a_wrong_name_are_told_apart() {
    assert_eq!(fault(fetched("good.pem", Access::default)), TlsFault::Issuer);
    let other = || Access { roots: pem("other.pem"), ..Access::default() };
    assert_eq!(fault(fetched("good.pem", other)), TlsFault::Issuer);
    assert_eq!(fault(fetched("wrong.pem", trusting)), TlsFault::Name);
}

#[test]
fn a_fault_of_time_tells_both_times() {
    for (name, valid) in [("expired.pem", Validity::Until(UNTIL)), ("future.pem", Validity::From(FROM))] {
        let clock = || rootbeam_init::sys::machine::wall_clock();
        let before = clock();
        let TlsFault::Time { now, valid: found } = fault(fetched(name, trusting)) else { panic!("{name}") };
        assert_eq!(found, valid, "{name}");
        assert!((before..=clock()).contains(&now), "{name}: {now}");
    }
    // A machine without a clock wakes no earlier than the build.
    let built = || Access { built: FROM + 100, ..trusting() };
    assert_eq!(fetched("future.pem", built), checksummed(&image(CHUNK)));
}

#[test]
fn pinned_content_comes_over_a_certificate_whose_only_fault_is_time() {
    for name in ["expired.pem", "future.pem", "chain.pem"] {
        assert_eq!(fetched(name, pinned), checksummed(&image(CHUNK)), "{name}");
    }
    assert!(matches!(fault(fetched("chain.pem", trusting)), TlsFault::Time { .. }));
    assert_eq!(fault(fetched("wrong.pem", pinned)), TlsFault::Name);
    let other = || Access { roots: pem("other.pem"), ..pinned() };
    assert_eq!(fault(fetched("expired.pem", other)), TlsFault::Issuer);
}

#[test]
fn a_server_that_asks_for_a_client_certificate_gets_the_packed_one() {
    let with = |name: &str| {
        let identity = Identity { certificate: pem(&format!("{name}.pem")), key: pem(&format!("{name}.key")) };
        move || Access { identity: Some(identity.clone()), ..trusting() }
    };
    for version in [&TLS12, &TLS13] {
        let image = image(CHUNK);
        let server = server(config("good.pem", &[version], true), &image);
        let sources = wanted(&[server.url("/web.img")]);
        assert_eq!(Bed::with_access(with("client")).run(sources.clone()), checksummed(&image), "{version:?}");
        assert_eq!(fault(Bed::with_access(trusting).run(sources.clone())), TlsFault::Client, "{version:?}: none");
        assert_eq!(fault(Bed::with_access(with("stranger")).run(sources)), TlsFault::Client, "{version:?}: unknown");
    }
}

/// Stands before `server`: its first connection goes through `first`, the others as they are. Returns its address.
fn front(server: &Server, first: fn(TcpStream, TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, behind) = (listener.local_addr().unwrap(), server.address.clone());
    thread::spawn(move || {
        for (nth, client) in listener.incoming().map_while(Result::ok).enumerate() {
            let Ok(server) = TcpStream::connect(&behind) else { return };
            thread::spawn(move || if nth == 0 { first(client, server) } else { pass(client, server) });
        }
    });
    format!("https://{address}/web.img")
}

fn pass(mut client: TcpStream, mut server: TcpStream) {
    up(&client, &server);
    let _ = io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

/// Hands on what the client says.
fn up(client: &TcpStream, server: &TcpStream) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// What comes of a fetch through a front, and the troubles on the way.
fn fetched_through(first: fn(TcpStream, TcpStream)) -> (Outcome, Vec<(SourceIndex, FetchCause)>) {
    let image = image(20 * CHUNK + 1);
    let server = server(config("good.pem", &[&TLS12, &TLS13], false), &image);
    let mut bed = Bed::with_access(trusting);
    let outcome = bed.run(wanted(&[front(&server, first)]));
    if let Outcome::Done(_) = &outcome {
        assert_eq!(outcome, checksummed(&image));
        bed.assert_holds(&image);
    }
    (outcome, bed.troubles.clone())
}

#[test]
fn a_server_whose_certificate_is_not_loaded_yet_is_asked_again() {
    let (outcome, troubles) = fetched_through(|mut client, _| {
        let _ = client.read(&mut [0; 4096]);
        // A fatal alert: internal_error.
        client.write_all(&[21, 3, 3, 0, 2, 2, 80]).unwrap();
    });
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert_eq!(troubles, [(0, FetchCause::Tls(TlsFault::Broken))]);
}

/// Flips a bit in the record of that number which the server sends.
fn damage(number: usize, mut client: TcpStream, mut server: TcpStream) {
    up(&client, &server);
    for nth in 0.. {
        let mut record = vec![0; 5];
        if server.read_exact(&mut record).is_err() {
            break;
        }
        record.resize(5 + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
        server.read_exact(&mut record[5..]).unwrap();
        if nth == number {
            *record.last_mut().unwrap() ^= 1;
        }
        if client.write_all(&record).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

#[test]
fn a_record_that_was_damaged_on_the_way_is_a_broken_connection() {
    // The first that is encrypted, behind ServerHello and ChangeCipherSpec; one in the midst of the image, for which hyper
    // may say no more than that the connection broke.
    let (outcome, troubles) = fetched_through(|client, server| damage(2, client, server));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert_eq!(troubles, [(0, FetchCause::Tls(TlsFault::Broken))]);
    let (outcome, troubles) = fetched_through(|client, server| damage(40, client, server));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    assert!(matches!(troubles[..], [(0, FetchCause::Tls(TlsFault::Broken) | FetchCause::Reset)]), "{troubles:?}");
}

#[test]
fn a_server_without_tls_is_let_off_a_few_times_and_then_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/web.img", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let mut bed = Bed::with_access(trusting);
    assert_eq!(fault(bed.run(wanted(&[url]))), TlsFault::Foreign);
    assert!(bed.troubles.len() > 1, "{:?}", bed.troubles);
}

/// A time server that says `seconds` since 1970 to everybody who asks.
fn time_server(seconds: u64) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut packet = [0; 48];
        while let Ok((48, client)) = socket.recv_from(&mut packet) {
            packet.copy_within(40..48, 24);
            // Seconds since 1900, modulo an era.
            let since_1900 = (seconds + 2_208_988_800) as u32;
            packet[40..44].copy_from_slice(&since_1900.to_be_bytes());
            (packet[0], packet[1]) = (4 << 3 | 4, 2);
            socket.send_to(&packet, client).unwrap();
        }
    });
    address
}

#[test]
fn a_time_server_is_asked_where_a_certificate_fails_for_time() {
    let built = 1_700_000_000;
    let asking = |seconds: u64| {
        let server = time_server(seconds);
        move || Access { built, time_servers: TimeServers::at(server), ..trusting() }
    };
    assert_eq!(fetched("future.pem", asking(FROM + 3600)), checksummed(&image(CHUNK)));
    // Before the build, where no machine can be, and after a hundred years.
    for time in [UNTIL - 10, built + 3_000_000_000] {
        let fault = fault(fetched("expired.pem", asking(time)));
        assert!(matches!(fault, TlsFault::Time { valid: Validity::Until(UNTIL), .. }), "{fault:?}");
    }
}

#[test]
fn pid_1_is_told_once_what_the_time_server_said() {
    let image = image(CHUNK);
    let files = published(&image);
    let config = config("future.pem", &[&TLS12, &TLS13], false);
    let server = Server::start_tls("127.0.0.1:0", config, move |request| match files.get(&request.path) {
        Some(bytes) => file(bytes, request),
        None => Reply::status("404 Not Found"),
    });
    let clock = time_server(FROM + 3600);
    let asking = move || Access { built: 1_700_000_000, time_servers: TimeServers::at(clock), ..trusting() };
    let mut bed = Bed::with_access(asking);
    assert_eq!(bed.run(wanted(&[server.url("/web.img")])), checksummed(&image));
    assert!(matches!(bed.times[..], [time] if (FROM + 3600..FROM + 3660).contains(&time)), "{:?}", bed.times);
}

#[test]
fn a_redirect_from_https_to_http_is_not_followed() {
    let image = image(CHUNK);
    let open = Server::of(published(&image));
    let there = open.url("");
    let config = config("good.pem", &[&TLS12, &TLS13], false);
    let server = Server::start_tls("127.0.0.1:0", config, move |request| {
        Reply::status("302 Found").header("Location", format!("{there}{}", request.path))
    });
    let outcome = Bed::with_access(trusting).run(wanted(&[server.url("/web.img")]));
    let cause = StoreCause::Fetch { source: 0, cause: FetchCause::Redirect };
    assert_eq!(outcome, Outcome::Failed(cause));
    assert_eq!(open.requests("/web.img.manifest"), []);
}
