//! Network namespaces of a node and of the server's side, a DHCP server between them, and the worker as a process.

use crate::scripted::{Script, Scripted};
use rootbeam_init::contract::{fd, role};
use rootbeam_init::messages::{NetNews, NetOrder};
use rootbeam_init::sys::channel::{self, Channel, Received};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The bound of every wait that has no shorter one of its own.
pub const PATIENCE: Duration = Duration::from_secs(20);

const PREFIX: &str = "rbnet";
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Runs a program to its end; its output, or its whole complaint.
pub fn tool(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Removes the namespaces of runs whose process is no more.
pub fn sweep() {
    for line in tool("ip", "netns list").lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            tool("ip", &format!("netns delete {name}"));
        }
    }
}

/// Runs `job` in a network namespace. That belongs to a thread; its sockets and children stay in it.
fn inside<T: Send + 'static>(namespace: &str, job: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    let enter = move || {
        nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        job()
    };
    std::thread::spawn(enter).join().expect("the job in the namespace")
}

/// A namespace for the node and one for the network around it.
pub struct Bed {
    node: String,
    around: String,
    folder: std::path::PathBuf,
}

impl Bed {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |what: &str| format!("{PREFIX}-{}-{number}{what}", std::process::id());
        let folder = std::env::temp_dir().join(name(""));
        let bed = Self { node: name("n"), around: name("a"), folder };
        std::fs::create_dir_all(&bed.folder).unwrap();
        tool("ip", &format!("netns add {}", bed.node));
        tool("ip", &format!("netns add {}", bed.around));
        bed
    }

    /// Plugs a link into the node, hardware address 02:00:00:00:00:`last`. Its other end is `far-NAME` and not up, so
    /// there is no carrier.
    pub fn plug(&self, name: &str, last: u8) {
        let Self { node, around, .. } = self;
        tool(
            "ip",
            &format!(
                "-n {node} link add {name} address 02:00:00:00:00:{last:02x} type veth peer far-{name} netns {around}"
            ),
        );
    }

    /// Sets the far end of a link up: the cable has a partner.
    pub fn connect(&self, name: &str) {
        tool("ip", &format!("-n {} link set far-{name} up", self.around));
    }

    /// Sets the far end of a link down.
    pub fn disconnect(&self, name: &str) {
        tool("ip", &format!("-n {} link set far-{name} down", self.around));
    }

    /// Moves the far end of a link to `other`'s side: a scripted server hears all links of its own.
    pub fn move_far_end(&self, name: &str, other: &Self) {
        tool("ip", &format!("-n {} link set far-{name} netns {}", self.around, other.around));
    }

    /// Starts a DHCP server on the far end of `link`, with the address 10.7.`net`.1/24 and leases from .50 to .60;
    /// returns when it listens.
    pub fn serve(&self, link: &str, net: u8, more: &str) -> Server {
        let Self { around, folder, .. } = self;
        tool("ip", &format!("-n {around} address replace 10.7.{net}.1/24 dev far-{link}"));
        self.connect(link);
        let leases = folder.join(format!("leases-{link}-{net}"));
        let mut child = Command::new("ip")
            .args(["netns", "exec", around, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root"])
            .args(["--port=0", "--bind-interfaces", "--except-interface=lo", "--no-ping", "--dhcp-authoritative"])
            .args(["--log-facility=-", "--log-dhcp", "--pid-file="])
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .arg(format!("--interface=far-{link}"))
            .arg(format!("--dhcp-range=10.7.{net}.50,10.7.{net}.60,255.255.255.0,1h"))
            .args(more.split_whitespace())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dnsmasq starts");
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let server = Server { child, log, leases };
        server.wait_for("sockets bound");
        server
    }

    /// Starts a scripted DHCP server on the far end of `link`, with the address 10.7.1.1/24.
    pub fn serve_script(&self, link: &str, script: Script) -> Scripted {
        let around = &self.around;
        tool("ip", &format!("-n {around} address replace 10.7.1.1/24 dev far-{link}"));
        self.connect(link);
        let bind = || {
            let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
            socket.set_broadcast(true).unwrap();
            socket
        };
        let socket = inside(around, bind);
        Scripted::start(socket, Ipv4Addr::new(10, 7, 1, 1), Ipv4Addr::new(10, 7, 1, 255), script)
    }

    /// Starts the worker in the node's namespace, as PID 1 does.
    pub fn worker(&self) -> Worker {
        let (channel, theirs) = channel::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_init"));
        command.arg0(role::NET).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
        // SAFETY: dup2 and fcntl are all that runs between fork and exec. The new number belongs to the child alone.
        unsafe {
            command.pre_exec(move || {
                if theirs.as_raw_fd() == fd::CHANNEL {
                    return Ok(nix::fcntl::fcntl(&theirs, nix::fcntl::F_SETFD(nix::fcntl::FdFlag::empty())).map(drop)?);
                }
                let kept = nix::unistd::dup2_raw(&theirs, OwnedFd::from_raw_fd(fd::CHANNEL))?;
                std::mem::forget(kept);
                Ok(())
            });
        }
        let child = inside(&self.node, move || command.spawn().expect("the worker starts"));
        Worker { child, channel }
    }

    /// The node's IPv4 addresses, "DEVICE ADDRESS/PREFIX", each followed by its lifetime where it has one.
    pub fn addresses(&self) -> Vec<String> {
        let mut found = Vec::new();
        for link in self.json("-4 -j address show") {
            for info in link["addr_info"].as_array().into_iter().flatten() {
                let (device, address) = (&link["ifname"], &info["local"]);
                let end = match info["valid_life_time"].as_u64() {
                    Some(0xffff_ffff) => String::new(),
                    other => format!(" for {other:?}"),
                };
                let prefix = &info["prefixlen"];
                found.push(format!("{} {}/{prefix}{end}", device.as_str().unwrap(), address.as_str().unwrap()));
            }
        }
        found
    }

    /// The node's IPv4 routes as `ip route` writes them.
    pub fn routes(&self) -> Vec<String> {
        let routes = tool("ip", &format!("-n {} -4 route show", self.node));
        routes.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// The node's links that are set up.
    pub fn links_up(&self) -> Vec<String> {
        let links = self.json("-j link show up");
        links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    /// The MTU of one of the node's links.
    pub fn mtu(&self, link: &str) -> u64 {
        self.json(&format!("-j link show {link}"))[0]["mtu"].as_u64().unwrap()
    }

    /// Runs `ip` in the node's namespace.
    pub fn ip(&self, arguments: &str) {
        tool("ip", &format!("-n {} {arguments}", self.node));
    }

    fn json(&self, arguments: &str) -> Vec<Value> {
        let text = tool("ip", &format!("-n {} {arguments}", self.node));
        // With nothing to show, ip writes entries that are empty objects.
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        all.into_iter().filter(|value| value.get("ifname").is_some()).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.around] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).stderr(Stdio::null()).status();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A running dnsmasq.
pub struct Server {
    child: Child,
    log: mpsc::Receiver<String>,
    leases: std::path::PathBuf,
}

impl Server {
    /// Waits for a line of its log.
    pub fn wait_for(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = String::new();
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(words) {
                return;
            }
            seen += &(line + "\n");
        }
        panic!("dnsmasq did not log {words:?} in {PATIENCE:?}, but\n{seen}");
    }

    /// The client identifiers that it knows.
    pub fn client_identifiers(&self) -> Vec<String> {
        let leases = std::fs::read_to_string(&self.leases).unwrap();
        leases.lines().map(|line| line.split_whitespace().nth(4).unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running worker and the test's end of its channel.
pub struct Worker {
    child: Child,
    channel: Channel<NetOrder, NetNews>,
}

impl Worker {
    pub fn order(&self, order: &NetOrder) {
        self.channel.send(order).expect("the worker takes orders");
    }

    /// Its next news.
    pub fn news(&self) -> NetNews {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.channel.receive().unwrap() {
                Received::Message(news, None) => return news,
                Received::Empty => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    assert!(!left.is_zero(), "no news of the worker in {PATIENCE:?}");
                    channel::wait(&[self.channel.as_fd()], left).unwrap();
                }
                other => panic!("instead of news: {other:?}"),
            }
        }
    }

    /// Its news up to the first that is neither `Link` nor `Asking`; that one is last.
    pub fn news_to_the_point(&self) -> Vec<NetNews> {
        let mut all = vec![self.news()];
        while matches!(all.last(), Some(NetNews::Link { .. } | NetNews::Asking { .. })) {
            all.push(self.news());
        }
        all
    }

    /// The first news that is neither `Link` nor `Asking`.
    pub fn outcome(&self) -> NetNews {
        self.news_to_the_point().pop().expect("the loop ends with one")
    }

    /// Tells it to finish; its exit status.
    pub fn finish(self) -> ExitStatus {
        self.order(&NetOrder::Finish);
        self.exit()
    }

    /// Closes the channel; its exit status.
    pub fn hang_up(mut self) -> ExitStatus {
        let (other, _) = channel::pair().unwrap();
        self.channel = other;
        self.exit()
    }

    /// Kills it as a crash would.
    pub fn crash(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn exit(mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        // Waiting for a child has no time limit, so it is looked for.
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the worker did not exit in {PATIENCE:?}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
