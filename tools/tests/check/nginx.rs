//! Debian's nginx, as one process on a free port of the loopback.

use crate::needs;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to start, and to write its log.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running nginx. It ends, killed, with this value.
pub struct Nginx {
    process: Child,
    folder: TempDir,
    pub port: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// For servers with a configuration and certificates of one's own.
pub fn is_there() -> Option<String> {
    program().is_none().then(|| "it needs nginx".to_owned()).or_else(|| needs::programs(&["openssl"]))
}

fn program() -> Option<PathBuf> {
    // Not everybody has the folder on the path.
    let places = ["nginx", "/usr/sbin/nginx"].map(PathBuf::from);
    places.into_iter().find(|place| Command::new(place).arg("-v").output().is_ok())
}

impl Nginx {
    /// Serves by the directives of a `server` block.
    pub fn start(directives: &str) -> Self {
        Self::launch("", directives)
    }

    /// The same over TLS, with the certificate NAME.pem in `certificates`.
    pub fn start_tls(certificates: &Path, name: &str, directives: &str) -> Self {
        let folder = certificates.display();
        let tls = format!("ssl_certificate {folder}/{name}.pem; ssl_certificate_key {folder}/server.key;");
        Self::launch("ssl", &format!("{tls} {directives}"))
    }

    fn launch(listen: &str, directives: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().display();
        // Free until somebody takes it between here and there.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {state}/{name};\n"))
            .collect();
        let text = format!(
            "daemon off; master_process off; pid {state}/pid; error_log stderr;\nevents {{ }}\nhttp {{ {places}\n\
             log_format all '$request|$http_authorization|$http_x_node'; access_log {state}/log all;\n\
             server {{ listen 127.0.0.1:{port} {listen}; {directives} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(program().unwrap());
        command.args(["-e", "stderr", "-c"]).arg(&file).stdin(Stdio::null());
        let process = command.stderr(fs::File::create(folder.path().join("errors")).unwrap()).spawn().unwrap();
        let nginx = Self { process, folder, port };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let errors = || fs::read_to_string(nginx.folder.path().join("errors")).unwrap_or_default();
            assert!(Instant::now() < end, "nginx does not serve: {}", errors());
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    /// The URL of a path.
    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/{path}", self.port)
    }

    /// The line of its log that begins so: request line, `Authorization` and `X-Node`. It is written after the answer.
    pub fn logged(&self, begin: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            match log.lines().find(|line| line.starts_with(begin)) {
                Some(line) => return line.to_owned(),
                None => assert!(Instant::now() < end, "no {begin:?} in {log}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
