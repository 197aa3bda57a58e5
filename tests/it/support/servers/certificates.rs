//! Throw-away certificates: an authority, a server for 127.0.0.1 and localhost, and a client.
//!
//! Made with the `openssl` command, which every Debian has, so that no certificate with an end date lies in the repository.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Files in one directory, as PEM: `ca.crt`, `server.crt`, `server.key`, `client.crt`, `client.key`.
pub(crate) struct TestCertificates {
    directory: tempfile::TempDir,
}

fn openssl(directory: &Path, arguments: &str) {
    let outcome = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let outcome =
        outcome.unwrap_or_else(|error| panic!("cannot run openssl: {error}; run .ci/setup, which installs it"));
    assert!(outcome.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&outcome.stderr));
}

impl TestCertificates {
    /// Makes them.
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(path, &format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.crt"));
        for (name, extension) in [
            ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n"),
            ("client", "extendedKeyUsage=clientAuth\n"),
        ] {
            std::fs::write(path.join("extension"), extension).expect("can be written");
            openssl(path, &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
            let sign = format!("x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2");
            openssl(path, &format!("{sign} -extfile extension -out {name}.crt"));
        }
        Self { directory }
    }

    /// The file called `name`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
