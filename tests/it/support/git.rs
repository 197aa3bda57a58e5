//! A Git repository as a job leaves it.
//!
//! The machine's own Git judges, and nobody's configuration may change its verdict.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Asks Git about a repository, without anybody's configuration.
pub(crate) struct Git(PathBuf);

impl Git {
    pub(crate) fn at(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Standard output of a Git command that must succeed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let output = command.args(arguments).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Values of one trailer over all commits, oldest commit first.
    pub(crate) fn trailers(&self, key: &str) -> Vec<String> {
        let format = format!("--format=%(trailers:key={key},valueonly)");
        let text = self.run(&["log", "--reverse", &format]);
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The feature of every commit, sorted; one that was committed twice is there twice.
    pub(crate) fn features(&self) -> Vec<String> {
        let mut features = self.trailers("Codeswarm-Feature");
        features.sort();
        features
    }

    /// The same, each once.
    pub(crate) fn distinct_features(&self) -> Vec<String> {
        self.features().into_iter().collect::<BTreeSet<_>>().into_iter().collect()
    }
}
