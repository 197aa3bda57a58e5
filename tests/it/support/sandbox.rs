//! A directory of its own for each test, in which programs run with nothing of the machine's but `PATH`.
//!
//! Programs get no other environment, so that a developer's key or configuration can neither help nor be used.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Ended, Running, Tree, tree};

/// A worked example of the repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Example(&'static str);

impl Example {
    pub(crate) const LINK_SHORTENER: Self = Self("link-shortener");
    pub(crate) const SITE_GENERATOR: Self = Self("site-generator");

    fn file(self, name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(self.0).join(name)
    }

    pub(crate) fn proposal(self) -> PathBuf {
        self.file("proposal.md")
    }

    pub(crate) fn replay(self) -> PathBuf {
        self.file("replay.jsonl")
    }
}

/// The directory: `work` is where programs run, beside a home and a temporary directory that must stay as they are.
pub(crate) struct Sandbox(TempDir);

impl Sandbox {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["work", "home", "tmp"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join("bystander"), "not yours").unwrap();
        }
        Self(directory)
    }

    /// Where programs run.
    pub(crate) fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    /// The output directory of the tests' jobs.
    pub(crate) fn out(&self) -> PathBuf {
        self.work().join("out")
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.work().join("data")
    }

    /// The fake server's bill.
    pub(crate) fn bill(&self) -> PathBuf {
        self.work().join("bill.jsonl")
    }

    /// `program` with `arguments` in this sandbox.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.work()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.0.path().join("home")).env("TMPDIR", self.0.path().join("tmp"));
        command
    }

    /// The `codeswarm` program on this sandbox's data directory.
    pub(crate) fn codeswarm(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_codeswarm"), arguments);
        command.arg("--data").arg(self.data());
        command
    }

    /// `codeswarm run` of an example with recorded replies, without questions, billed.
    pub(crate) fn run_command(&self, example: Example, arguments: &[&str]) -> Command {
        let mut command = self.codeswarm(&["run"]);
        command.arg(example.proposal()).arg("--replay").arg(example.replay());
        command.arg("--replay-bill").arg(self.bill()).arg("--out").arg(self.out()).arg("--yes").args(arguments);
        command
    }

    /// The same, to its end.
    pub(crate) fn run(&self, example: Example, arguments: &[&str]) -> Ended {
        Running::start(&mut self.run_command(example, arguments)).end()
    }

    /// `codeswarm resume` with the same bill.
    pub(crate) fn resume_command(&self, example: Example, arguments: &[&str]) -> Command {
        let mut command = self.codeswarm(&["resume", "--yes"]);
        command.arg("--replay").arg(example.replay()).arg("--replay-bill").arg(self.bill()).args(arguments);
        command
    }

    /// The same, to its end.
    pub(crate) fn resume(&self, example: Example, arguments: &[&str]) -> Ended {
        Running::start(&mut self.resume_command(example, arguments)).end()
    }

    /// The files of the output, without the program's own mark and without Git's database.
    pub(crate) fn output(&self) -> Tree {
        let mut files = tree(&self.out());
        files.retain(|path, _| !path.starts_with(".git/") && !path.starts_with(".codeswarm-"));
        files
    }

    /// Everything in the sandbox that no job may touch: all but output, data and bill.
    pub(crate) fn bystanders(&self) -> Tree {
        let mut files = tree(self.0.path());
        files.retain(|path, _| !["work/out", "work/data", "work/bill.jsonl"].iter().any(|ours| path.starts_with(ours)));
        files
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}
