//! One Git commit per feature, made with the `git` program.
//!
//! Git runs in a clean environment: no configuration of the user or the system, no hooks, no prompts, no signing, paths taken
//! literally, and the repository named outright, so that an enclosing repository is never touched. A commit is found
//! again by its trailers, which makes committing after a crash harmless. This file must never push, fetch or rewrite.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use cap_std::fs::Dir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::WorkspaceError;
use super::transaction::Journal;

/// Kept out of every commit: the marker and the stage.
const EXCLUDE: &str = "/.codeswarm*\n";
/// Where Git says that it is writing its index.
const INDEX_LOCK: &str = ".git/index.lock";
/// Where a bundle is made.
const BUNDLE: &str = ".git/codeswarm.bundle";
/// How long a lock may stay unchanged before its owner is taken for dead; adding a few files takes milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Longest subject line, in characters.
const MAX_SUBJECT: usize = 72;
/// Most characters of Git's complaint that are passed on.
const MAX_MESSAGE: usize = 2_000;
#[cfg(windows)]
const NOWHERE: &str = "NUL";
#[cfg(not(windows))]
const NOWHERE: &str = "/dev/null";

/// Whom commits are by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Shown name.
    pub name: String,
    /// E-mail address.
    pub email: String,
}

impl Default for Author {
    fn default() -> Self {
        Self { name: "CodeSwarm".into(), email: "codeswarm@localhost".into() }
    }
}

/// The repository in an output directory.
#[derive(Debug, Clone)]
pub(super) struct Git {
    root: PathBuf,
    author: Author,
}

impl Git {
    pub(super) fn new(root: &Path, author: Author) -> Self {
        Self { root: root.to_owned(), author }
    }

    /// Finds out whether the program is there at all.
    pub(super) async fn available() -> Result<(), WorkspaceError> {
        let mut command = Command::new("git");
        clean(&mut command);
        run(command.arg("--version"), "--version", None).await.map(|_| ())
    }

    /// Makes the repository if there is none; `.git` has to be a real directory.
    pub(super) async fn init(&self, dir: &Dir) -> Result<(), WorkspaceError> {
        match dir.symlink_metadata(".git") {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(WorkspaceError::ForeignRepository { path: self.root.clone() }),
            Err(_) => {
                let mut command = Command::new("git");
                clean(&mut command);
                command.current_dir(&self.root).args([
                    "-c",
                    "init.defaultBranch=main",
                    "init",
                    "--quiet",
                    "--template=",
                ]);
                run(&mut command, "init", None).await?;
            }
        }
        let exclude = dir.create_dir_all(".git/info").and_then(|()| dir.write(".git/info/exclude", EXCLUDE));
        exclude.map_err(WorkspaceError::io(".git/info/exclude"))
    }

    /// Commits the files of a journal, unless exactly that has been done; the commit's id.
    pub(super) async fn commit(&self, dir: &Dir, journal: &Journal) -> Result<String, WorkspaceError> {
        outwait_index_lock(dir).await?;
        let paths: Vec<&str> = journal.files.iter().map(|entry| entry.path.as_str()).collect();
        // Forced, because a generated .gitignore may well ignore a generated file.
        self.git("add", &["--force", "--"], &paths, None).await?;
        // Without a first commit HEAD does not resolve, which counts as changed.
        let compared = self.try_git("diff-index", &["--cached", "--quiet", "HEAD", "--"], &paths).await?;
        let unchanged = compared.status.success();
        if unchanged && let Some(found) = self.find(journal).await? {
            return Ok(found);
        }
        let arguments = [
            "--quiet",
            "--no-verify",
            "--no-gpg-sign",
            "--allow-empty",
            "--cleanup=verbatim",
            "--file=-",
            "--only",
            "--",
        ];
        self.git("commit", &arguments, &paths, Some(message(journal))).await?;
        Ok(self.git("rev-parse", &["HEAD"], &[], None).await?.trim().to_owned())
    }

    /// Packs all that was committed into one file below `.git`, and answers where.
    pub(super) async fn bundle(&self) -> Result<PathBuf, WorkspaceError> {
        self.git("bundle", &["create", "--quiet", BUNDLE, "HEAD", "main"], &[], None).await?;
        Ok(self.root.join(BUNDLE))
    }

    /// The latest commit with the journal's trailers.
    async fn find(&self, journal: &Journal) -> Result<Option<String>, WorkspaceError> {
        let greps = trailers(journal).map(|trailer| format!("--grep={trailer}"));
        let mut arguments = vec!["-z", "--format=%H%n%B", "--fixed-strings", "--all-match"];
        arguments.extend(greps.iter().map(String::as_str));
        let log = self.git("log", &arguments, &[], None).await?;
        // --grep finds the trailer of feature "a" in that of "a-b" too; whole lines decide.
        let wanted = trailers(journal);
        Ok(log.split('\0').find_map(|record| {
            let (id, body) = record.split_once('\n')?;
            wanted.iter().all(|trailer| body.lines().any(|line| line == trailer)).then(|| id.to_owned())
        }))
    }

    async fn git(
        &self,
        name: &str,
        arguments: &[&str],
        paths: &[&str],
        input: Option<String>,
    ) -> Result<String, WorkspaceError> {
        run(self.command(name).args(arguments).args(paths), name, input).await
    }

    /// Like [`Git::git`], but an exit status is an answer and not a failure.
    async fn try_git(&self, name: &str, arguments: &[&str], paths: &[&str]) -> Result<Output, WorkspaceError> {
        output(self.command(name).args(arguments).args(paths), name, None).await
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("git");
        clean(&mut command);
        command
            .current_dir(&self.root)
            .args(["--git-dir=.git", "--work-tree=.", "--literal-pathspecs", "--no-pager"])
            .args(["-c", &format!("core.hooksPath={NOWHERE}"), "-c", &format!("core.attributesFile={NOWHERE}")])
            .args(["-c", &format!("core.excludesFile={NOWHERE}"), "-c", "core.fsmonitor=false", "-c", "gc.auto=0"])
            .args(["-c", "commit.gpgSign=false", "-c", "core.autocrlf=false", "-c", "core.safecrlf=false"])
            .envs([("GIT_AUTHOR_NAME", &self.author.name), ("GIT_COMMITTER_NAME", &self.author.name)])
            .envs([("GIT_AUTHOR_EMAIL", &self.author.email), ("GIT_COMMITTER_EMAIL", &self.author.email)])
            .arg(name);
        command
    }
}

/// A git that was killed together with this program leaves its lock behind, and no git would ever commit again. Nobody
/// else of ours can be at work (the caller holds the output's own lock), and a person's git is given time to finish.
async fn outwait_index_lock(dir: &Dir) -> Result<(), WorkspaceError> {
    let taken_at = || dir.symlink_metadata(INDEX_LOCK).and_then(|lock| lock.modified()).ok();
    let Some(first) = taken_at() else { return Ok(()) };
    tokio::time::sleep(LOCK_PATIENCE).await;
    match taken_at() {
        Some(still) if still == first => dir.remove_file(INDEX_LOCK).map_err(WorkspaceError::io(INDEX_LOCK)),
        _ => Ok(()),
    }
}

/// Leaves nothing of the caller's environment but what is needed to find the program.
fn clean(command: &mut Command) {
    command.env_clear();
    for name in ["PATH", "SystemRoot"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(OsStr::new(name), value);
        }
    }
    command
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", NOWHERE)
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_EDITOR", "true");
}

async fn run(command: &mut Command, name: &str, input: Option<String>) -> Result<String, WorkspaceError> {
    let output = output(command, name, input).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().chars().take(MAX_MESSAGE).collect();
    Err(WorkspaceError::Git { command: name.to_owned(), message })
}

async fn output(command: &mut Command, name: &str, input: Option<String>) -> Result<Output, WorkspaceError> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let spawned = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => WorkspaceError::GitMissing,
        _ => WorkspaceError::io(format!("with git {name}"))(error),
    })?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A closed pipe means that git has already failed; its own message says why.
        let _ = pipe.write_all(text.as_bytes()).await;
    }
    child.wait_with_output().await.map_err(WorkspaceError::io(format!("with git {name}")))
}

fn trailers(journal: &Journal) -> [String; 3] {
    [
        format!("Codeswarm-Job: {}", journal.job),
        format!("Codeswarm-Feature: {}", journal.feature),
        format!("Codeswarm-Complete: {}", journal.complete),
    ]
}

/// Subject, list of files, trailers. The title comes from a model: one line, nothing that could pass for a trailer.
fn message(journal: &Journal) -> String {
    let title = journal.title.split_whitespace().collect::<Vec<_>>().join(" ");
    let title: String = title.chars().filter(|c| !c.is_control()).collect();
    let subject =
        if title.is_empty() { format!("Add {}", journal.feature) } else { format!("{}: {title}", journal.feature) };
    let mut text: String = subject.chars().take(MAX_SUBJECT).collect();
    text.push_str("\n\n");
    for entry in &journal.files {
        text.push_str(&format!("- {}\n", entry.path));
    }
    text.push('\n');
    for trailer in trailers(journal) {
        text.push_str(&trailer);
        text.push('\n');
    }
    for entry in &journal.files {
        text.push_str(&format!("Codeswarm-Task: {}\n", entry.task));
    }
    text
}
