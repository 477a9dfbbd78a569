//! What the workers report, in words: each cause becomes a [`Failure`] with a remedy. The workers send numbers and
//! labels; every text that reaches a console is made here or in `failure`.

use crate::clock::Utc;
use crate::failure::{Failure, Step};
use crate::label::Label;
use crate::messages::{FetchCause, FetchWarning, FilesystemKind, NetCause, SourceIndex, StoreCause, TlsFault};
use crate::modules::Mismatch;
use crate::settings::source::Source;
use crate::settings::values::human;
use crate::trust::{self, SignatureFault};
use url::Origin;

/// There is no network.
pub fn network(cause: &NetCause) -> Failure {
    let fail = |object: String, cause: String, remedy: &str| Failure::new(Step::Network, object, cause, remedy);
    match cause {
        NetCause::NoLink => fail(
            "network".to_owned(),
            "this machine shows no Ethernet link".to_owned(),
            "pack the driver of its network card (rootbeam pack --include-module NAME, or --preset generic)",
        ),
        NetCause::NoSuchLink { present } => fail(
            "network".to_owned(),
            format!("none of the links is the one that was asked for; there are {}", list(present)),
            "correct BOOTIF= or the link in ip=",
        ),
        NetCause::NoCarrier { links } => fail(
            list(links),
            "no link has a carrier".to_owned(),
            "check cable, switch port and driver; rootbeam.net.carrier=SECONDS waits longer",
        )
        .passing(),
        NetCause::NoLease { links, seconds } => fail(
            list(links),
            format!("no DHCP server answered within {seconds} s"),
            "check the DHCP server and the VLAN of the port, or give an address with ip=",
        )
        .passing(),
        NetCause::Kernel { link, errno } => fail(
            link.to_string(),
            format!("the kernel refused to set it up: {}", std::io::Error::from_raw_os_error(*errno)),
            "check the address and gateway in ip= or of the lease",
        )
        .passing(),
        NetCause::UnusableLease { link, server, fault } => {
            let from = server.map(|server| format!(" of {server}")).unwrap_or_default();
            let text = format!("the lease{from} {fault}");
            fail(link.to_string(), text, "correct the DHCP server, or give an address with ip=").passing()
        }
        NetCause::LeaseLost { link } => {
            fail(link.to_string(), "the lease ran out and no server renewed it".to_owned(), "check the DHCP server")
                .passing()
        }
        NetCause::LinkGone { link } => {
            let remedy = "look at the kernel's messages about it; plug it in again where it was pulled";
            fail(link.to_string(), "the link is gone".to_owned(), remedy).passing()
        }
    }
}

/// The failure of a network whose links lack their drivers, where those were packed for another kernel.
pub fn without_drivers(failure: Failure, mismatch: Option<Mismatch<'_>>) -> Failure {
    match mismatch {
        Some(mismatch) if failure == network(&NetCause::NoLink) => {
            Failure { cause: format!("{}: {mismatch}", failure.cause), remedy: Mismatch::REMEDY.to_owned(), ..failure }
        }
        _ => failure,
    }
}

fn list(links: &[Label]) -> String {
    if links.is_empty() {
        return "no links".to_owned();
    }
    links.iter().map(Label::as_str).collect::<Vec<_>>().join(", ")
}

/// The store gave up.
pub fn store(cause: &StoreCause, sources: &[Source], running_kernel: &str) -> Failure {
    let url = |index: &SourceIndex| named(sources, *index);
    let manifest = |source: &SourceIndex, cause: String, remedy: &str| {
        Failure::new(Step::Manifest, format!("manifest of {}", url(source)), cause, remedy)
    };
    const REMAKE: &str =
        "make it anew with `rootbeam image manifest IMAGE` and publish image, manifest and chunks together";
    let image = |object: String, cause: String, remedy: &str| Failure::new(Step::Image, object, cause, remedy);
    // What the store does not trace to one source it found in the bytes of all of them.
    let the_image = || match sources {
        [only] => only.to_string(),
        _ => "image".to_owned(),
    };
    match cause {
        StoreCause::Fetch { source, cause } => {
            let (step, text, remedy) = (Step::Image, fetch_text(cause), fetch_remedy(cause));
            let failure = Failure::new(step, url(source), text, remedy);
            if cause.is_passing() { failure.passing() } else { failure }
        }
        StoreCause::ManifestTooLarge { source, bytes } => {
            manifest(source, format!("it has {} or more, more than is read", human(*bytes)), REMAKE)
        }
        StoreCause::ManifestMalformed { source } => manifest(source, "it is not a manifest in JSON".to_owned(), REMAKE),
        StoreCause::ManifestOfAnotherImage { source, said, found } => manifest(
            source,
            format!("it is of another image: it says {said} bytes, the server's file has {found}"),
            REMAKE,
        ),
        StoreCause::ChunkList { source } => {
            manifest(source, "its chunk list (IMAGE.chunks) does not have the hashes that it names".to_owned(), REMAKE)
        }
        StoreCause::ManifestMissing { source } => manifest(
            source,
            "there is none, and this boot takes no image without a signed or pinned one".to_owned(),
            "make one with `rootbeam image manifest IMAGE`, sign it with `rootbeam sign`, and publish it beside the image",
        ),
        StoreCause::Signature { source, fault } => {
            let (cause, remedy) = signature(fault);
            manifest(source, cause, remedy)
        }
        StoreCause::ManifestHash { source, expected, found } => manifest(
            source,
            format!("its SHA-256 is {found}, and rootbeam.manifest= asks for {expected}"),
            "publish the manifest that was pinned, or correct rootbeam.manifest= if the new one is meant",
        ),
        StoreCause::ManifestTooOld { source, version, floor } => manifest(
            source,
            format!("it has version {version}, and this initramfs boots none below {floor}"),
            "publish the newer image, or pack the initramfs again with a lower `rootbeam pack --min-version`",
        ),
        StoreCause::Kernel { required } => Failure::new(
            Step::Manifest,
            format!("kernel {running_kernel}"),
            format!("the image requires kernel {required}"),
            "boot the kernel of the image, or fetch the image of this kernel",
        ),
        StoreCause::WrongChunk { chunk, chunks, offset, source } => image(
            url(source),
            format!("chunk {chunk} of {chunks} (from byte {offset}) has the wrong SHA-256 from every source"),
            "the file on the server is damaged or was replaced: compare it by `rootbeam image verify` and copy it anew",
        ),
        StoreCause::WrongHash { expected, found } => image(
            the_image(),
            format!("its SHA-256 is {found}, and {expected} was asked for"),
            "correct the hash (rootbeam.sha256= or the .sha256 file) or the file on the server",
        ),
        StoreCause::Empty { source } => {
            image(url(source), "the file has no bytes".to_owned(), "copy the image to the server again")
        }
        StoreCause::Truncated { size, needed } => image(
            the_image(),
            format!("it is truncated: {size} bytes are there, its filesystem has {needed}"),
            "copy the image to the server again; it was cut on the way",
        ),
        StoreCause::NotAFilesystem { magic } => image(
            the_image(),
            format!("it is neither squashfs nor erofs: it begins with {}", magic.escape_ascii()),
            "point rootbeam.image= at a squashfs or erofs image (`rootbeam image build` makes one)",
        ),
        StoreCause::Superblock { filesystem } => image(
            the_image(),
            format!("its {} superblock contradicts itself", filesystem_name(*filesystem)),
            "make the image anew; it is damaged or of an unknown version",
        ),
        StoreCause::Unverified => Failure::new(
            Step::Manifest,
            the_image(),
            "verification is required, and there is neither manifest nor checksum",
            "make a manifest with `rootbeam image manifest IMAGE` beside the image, or give rootbeam.sha256=",
        ),
        StoreCause::Memory { errno } => Failure::new(
            Step::Memory,
            "image in memory",
            format!("the kernel refused the memory: {}", std::io::Error::from_raw_os_error(*errno)),
            "give the machine more RAM",
        ),
    }
}

/// What a manifest's signatures lack, and what to do about it.
pub fn signature(fault: &SignatureFault) -> (String, &'static str) {
    const SIGN: &str = "sign it with `rootbeam sign MANIFEST -s KEY`, and publish MANIFEST.minisig beside it";
    match fault {
        SignatureFault::Missing => ("it is not signed, and this initramfs has a key packed".to_owned(), SIGN),
        SignatureFault::Unreadable => ("its signature file holds no minisign signature".to_owned(), SIGN),
        SignatureFault::Foreign { keys } => (
            format!("it is signed by {}, and by none of the trusted keys", trust::listed(keys)),
            "sign it with a key that was packed, or pack the one that signed it with `rootbeam pack --key`",
        ),
        SignatureFault::Altered { key } => (
            format!("its signature by {key} is wrong: it was altered since, or the signature is of another manifest"),
            "sign the manifest again, and publish manifest and signature together",
        ),
        SignatureFault::Legacy { key } => (
            format!("its signature by {key} is of minisign's legacy kind, which no boot takes"),
            "sign it with `rootbeam sign`, or with minisign without -l (old versions: with -H)",
        ),
        SignatureFault::TooFew { keys, needed } => (
            format!(
                "it is signed by {} of the {needed} trusted keys that are needed ({})",
                keys.len(),
                trust::listed(keys)
            ),
            "let another keyholder add a signature with `rootbeam sign MANIFEST -s KEY --add`",
        ),
    }
}

/// A source failed and is tried again, or the next one is; the remedy stands there where the trouble is new.
pub fn trouble((source, cause): &(SourceIndex, FetchCause), sources: &[Source], pause_ms: u32, fresh: bool) -> String {
    let (url, text) = (named(sources, *source), fetch_text(cause));
    let pause = format!("{}.{} s", pause_ms / 1000, pause_ms % 1000 / 100);
    match fresh {
        true => format!("{}: {url}: {text}; next try in {pause}. Remedy: {}.", Step::Image, fetch_remedy(cause)),
        false => format!("{}: {url}: {text}; next try in {pause}", Step::Image),
    }
}

/// What a source has is of no use, which alone would be `failure`; others may have better.
pub fn unfit(source: SourceIndex, sources: &[Source], failure: &Failure) -> String {
    let Failure { step, cause, remedy, .. } = failure;
    // What the others have is not known yet.
    let cause = cause.trim_end_matches(" from every source");
    format!("{step}: {}: {cause}; the other sources are asked. Remedy: {remedy}.", named(sources, source))
}

/// What is to be known although the fetch goes on.
pub fn warning(warning: &FetchWarning, sources: &[Source]) -> String {
    match warning {
        FetchWarning::Open => {
            let hosts = sources.iter().filter_map(|source| match source.origin() {
                Origin::Tuple(scheme, host, _) if scheme == "http" => Some(host.to_string()),
                _ => None,
            });
            let hosts = hosts.collect::<Vec<_>>().join(", ");
            format!("the token or header for {hosts} can be read by everybody on the way: use https")
        }
        FetchWarning::LetPass { now, valid } => format!(
            "the server's certificate is {valid}, and this machine's clock says {}; it is let pass, since the image \
             itself is verified by key or hash",
            Utc(*now)
        ),
    }
}

/// `rootbeam.timeout=` is over; the last trouble is the cause.
pub fn too_late(seconds: u32, last: Option<&(SourceIndex, FetchCause)>, sources: &[Source]) -> Failure {
    let over = format!("the {seconds} s of rootbeam.timeout= are over");
    match last {
        Some((source, cause)) => {
            let text = format!("{}, and {over}", fetch_text(cause));
            Failure::new(Step::Image, named(sources, *source), text, fetch_remedy(cause))
        }
        None => Failure::new(Step::Image, "download", over, "allow more time, or give the machine a faster network"),
    }
}

/// The kernel's name of a filesystem.
pub fn filesystem_name(kind: FilesystemKind) -> &'static str {
    match kind {
        FilesystemKind::Squashfs => "squashfs",
        FilesystemKind::Erofs => "erofs",
    }
}

/// The URL of a source.
pub fn named(sources: &[Source], index: SourceIndex) -> String {
    let known = sources.get(usize::from(index)).map(ToString::to_string);
    known.unwrap_or_else(|| format!("source {} (named by the manifest)", usize::from(index) + 1))
}

/// What a request failed with, without a full stop.
pub fn fetch_text(cause: &FetchCause) -> String {
    let text = match cause {
        FetchCause::NameUnknown => "the name server knows no such name",
        FetchCause::NameServer => "no name server answered",
        FetchCause::Refused => "the server refused the connection",
        FetchCause::Unreachable => "the server cannot be reached",
        FetchCause::Reset => "the connection broke",
        FetchCause::Stalled => "the server sent nothing for too long",
        FetchCause::Proxy => "the proxy cannot be reached, or makes no connection to the server",
        FetchCause::Tls(TlsFault::Time { now, valid }) => {
            let now = Utc(*now);
            return format!("the server's certificate is {valid}, and this machine's clock says {now}");
        }
        FetchCause::Tls(TlsFault::Name) => "the server's certificate is for another name",
        FetchCause::Tls(TlsFault::Issuer) => "no trusted root has signed the server's certificate",
        FetchCause::Tls(TlsFault::Client) => "the server asks for a client certificate that it knows",
        FetchCause::Tls(TlsFault::Certificate) => "the server's certificate is of no use",
        FetchCause::Tls(TlsFault::Terms) => "the server agrees to no TLS that this machine offers",
        FetchCause::Tls(TlsFault::Foreign) => "what the server sent is no valid TLS",
        FetchCause::Tls(TlsFault::Broken) => "the TLS connection broke",
        FetchCause::Tls(TlsFault::Setup) => "this machine cannot set its side of TLS up",
        FetchCause::Status { status, .. } => return format!("the server answered {}", status_text(*status)),
        FetchCause::Redirect => "the server redirects in circles, or from https to http",
        FetchCause::Short => "the body ended early",
        FetchCause::Protocol => "the server's answer contradicts itself or the request",
        FetchCause::WrongBytes => "it sent bytes with the wrong SHA-256",
        FetchCause::WorkerDied => "the fetch worker died",
    };
    text.to_owned()
}

fn status_text(status: u16) -> String {
    let name = match status {
        401 => " Unauthorized",
        403 => " Forbidden",
        404 => " Not Found",
        410 => " Gone",
        429 => " Too Many Requests",
        500 => " Internal Server Error",
        502 => " Bad Gateway",
        503 => " Service Unavailable",
        504 => " Gateway Timeout",
        _ => "",
    };
    format!("{status}{name}")
}

fn fetch_remedy(cause: &FetchCause) -> &'static str {
    match cause {
        FetchCause::NameUnknown => "correct the name in rootbeam.image=, or the name server's entry for it",
        FetchCause::NameServer => "check the name server of the lease, or give one with nameserver=",
        FetchCause::Refused => "start the web server, or correct the port in rootbeam.image=",
        FetchCause::Unreachable => "check address, gateway and firewall",
        FetchCause::Reset | FetchCause::Stalled | FetchCause::Short => "check the server and the network between",
        FetchCause::Proxy => "check rootbeam.proxy= and the proxy's own log",
        FetchCause::Tls(TlsFault::Time { .. }) => {
            "renew the certificate, or set the machine's clock: rootbeam.ntp= names a time server"
        }
        FetchCause::Tls(TlsFault::Name) => "use the name that the certificate has",
        FetchCause::Tls(TlsFault::Issuer) => "pack the root certificate with `rootbeam pack --ca PEM`",
        FetchCause::Tls(TlsFault::Client) => "pack one with `rootbeam pack --client-cert PEM --client-key PEM`",
        FetchCause::Tls(TlsFault::Certificate) => {
            "give the server one that is made for servers and of a usual kind; `openssl s_client` shows what it has"
        }
        // Before TLS 1.3 a server that wants a client certificate may say no more than this either (RFC 5246, 7.4.6).
        FetchCause::Tls(TlsFault::Terms) => {
            "let the server offer TLS 1.2 or 1.3; if it wants a client certificate, pack one with `rootbeam pack \
             --client-cert PEM --client-key PEM`"
        }
        FetchCause::Tls(TlsFault::Foreign) => "let the server speak TLS at this port, or write http:// for https://",
        FetchCause::Tls(TlsFault::Broken) => {
            "look at the server's log, it may have no certificate for this name yet, and check the network between"
        }
        FetchCause::Tls(TlsFault::Setup) => {
            "pack a client certificate and its key that fit, with `rootbeam pack --client-cert PEM --client-key PEM`"
        }
        FetchCause::Status { status: 403 | 401, .. } => "let the server's permissions allow the file to be read",
        FetchCause::Status { status: 404 | 410, .. } => "correct the path in rootbeam.image=, or put the file there",
        FetchCause::Status { .. } => "look at the server's log",
        FetchCause::Redirect => "name the final URL in rootbeam.image=",
        FetchCause::Protocol => "look at the server or the proxy between",
        FetchCause::WrongBytes => "compare its file by `rootbeam image verify` and copy it anew",
        FetchCause::WorkerDied => "report this as a bug, with the log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_names_the_chunk_and_the_source() {
        let sources = [Source::parse("http://10.0.0.1/a.squashfs").unwrap()];
        let cause = StoreCause::WrongChunk { chunk: 7, chunks: 1600, offset: 458_752, source: 0 };
        let text = store(&cause, &sources, "6.1").to_string();
        assert!(text.starts_with(
            "FAILED at image: http://10.0.0.1/a.squashfs: chunk 7 of 1600 (from byte 458752) has the wrong SHA-256"
        ));
    }

    #[test]
    fn trouble_names_the_remedy_once_and_a_timeout_names_the_last_trouble() {
        let sources = [Source::parse("http://10.0.0.1/a.squashfs").unwrap()];
        let refused = (0, FetchCause::Refused);
        assert_eq!(
            trouble(&refused, &sources, 1290, true),
            "image: http://10.0.0.1/a.squashfs: the server refused the connection; next try in 1.2 s. Remedy: start the \
             web server, or correct the port in rootbeam.image=."
        );
        assert_eq!(
            trouble(&refused, &sources, 0, false),
            "image: http://10.0.0.1/a.squashfs: the server refused the connection; next try in 0.0 s"
        );
        assert_eq!(
            too_late(5, Some(&refused), &sources).to_string(),
            "FAILED at image: http://10.0.0.1/a.squashfs: the server refused the connection, and the 5 s of \
             rootbeam.timeout= are over. Remedy: start the web server, or correct the port in rootbeam.image=."
        );
        assert_eq!(
            too_late(5, None, &sources).to_string(),
            "FAILED at image: download: the 5 s of rootbeam.timeout= are over. Remedy: allow more time, or give the \
             machine a faster network."
        );
    }

    #[test]
    fn a_source_that_is_unfit_is_named_and_nothing_is_said_of_the_others() {
        let sources = ["http://a/web.img", "http://b/web.img"].map(|url| Source::parse(url).unwrap());
        let text = |cause| unfit(1, &sources, &store(&cause, &sources, "6.1"));
        assert_eq!(
            text(StoreCause::Unverified),
            "manifest: http://b/web.img: verification is required, and there is neither manifest nor checksum; the other \
             sources are asked. Remedy: make a manifest with `rootbeam image manifest IMAGE` beside the image, or give \
             rootbeam.sha256=."
        );
        let chunk = text(StoreCause::WrongChunk { chunk: 7, chunks: 1600, offset: 458_752, source: 1 });
        assert!(chunk.contains("(from byte 458752) has the wrong SHA-256; the other sources are asked."), "{chunk}");
    }

    #[test]
    fn a_warning_names_the_servers_that_hear_a_secret_in_the_open() {
        let sources = ["http://a:8080/i", "https://b/i", "http://[fd00::1]/i"].map(|url| Source::parse(url).unwrap());
        let text = warning(&FetchWarning::Open, &sources);
        assert_eq!(text, "the token or header for a, [fd00::1] can be read by everybody on the way: use https");
    }

    #[test]
    fn a_source_that_pid_1_does_not_know_is_named_by_its_number() {
        let cause = StoreCause::Empty { source: 200 };
        assert_eq!(store(&cause, &[], "6.1").object, "source 201 (named by the manifest)");
    }

    #[test]
    fn a_machine_without_a_link_whose_modules_are_of_another_kernel_is_told_of_these() {
        let packed = ["6.1.0-56".to_owned()];
        let mismatch = Mismatch { packed: &packed, running: "6.1.0-50" };
        let told = |cause: &NetCause, mismatch| without_drivers(network(cause), mismatch).to_string();
        assert_eq!(
            told(&NetCause::NoLink, Some(mismatch)),
            "FAILED at network: network: this machine shows no Ethernet link: this initramfs has modules for kernel \
             6.1.0-56, and kernel 6.1.0-50 is running. Remedy: pack it again with the modules of that kernel."
        );
        assert_eq!(told(&NetCause::NoLink, None), network(&NetCause::NoLink).to_string());
        let carrier = NetCause::NoCarrier { links: vec![Label::new("eth0").unwrap()] };
        assert_eq!(told(&carrier, Some(mismatch)), network(&carrier).to_string());
    }

    #[test]
    fn magic_bytes_reach_the_console_escaped() {
        let cause = StoreCause::NotAFilesystem { magic: *b"\x1b[2J" };
        assert!(store(&cause, &[], "6.1").cause.ends_with("begins with \\x1b[2J"));
    }
}
