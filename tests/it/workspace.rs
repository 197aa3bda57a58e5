//! The output directory: hostile paths write nothing outside, foreign directories stay untouched, Git commits are exact.
//!
//! Models choose the paths, so the room that writes must not trust them. What lies outside is compared before and
//! after; Git is asked as anybody would ask it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use codeswarm::error::Coded;
use codeswarm::protocol::{FeatureId, JobId, TaskId};
use codeswarm::workspace::{FeatureCommit, OutputMode, Workspace, WorkspaceError, preflight};

fn job() -> JobId {
    JobId::new("job-1").unwrap()
}

fn commit(feature: &str, files: &[(&str, &str)]) -> FeatureCommit {
    let feature = FeatureId::new(feature).unwrap();
    let files = files.iter().enumerate().map(|(index, (path, text))| {
        let task = TaskId::file(&feature, &format!("t{index}")).unwrap();
        ((*path).to_owned(), Bytes::copy_from_slice(text.as_bytes()), task)
    });
    FeatureCommit { files: files.collect(), title: "Title".into(), complete: true, feature }
}

/// Everything below `root`: contents of files, targets of links, nothing for directories.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap();
            let what = if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                open.push(path.clone());
                "directory".into()
            } else {
                String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned()
            };
            found.insert(path, what);
        }
    }
    found
}

#[cfg(unix)]
fn sandbox(parent: &Path) -> PathBuf {
    use std::os::unix::fs::symlink;
    let root = parent.join("out");
    std::fs::create_dir_all(root.join("src")).unwrap();
    std::fs::create_dir(parent.join("outside")).unwrap();
    std::fs::write(parent.join("outside/secret"), "secret").unwrap();
    std::fs::write(root.join(".codeswarm-output.json"), "{\"schema\":1,\"job\":\"job-1\"}").unwrap();
    std::fs::write(root.join("src/Main.rs"), "").unwrap();
    std::fs::write(root.join("src/\u{fc}.rs"), "").unwrap();
    std::fs::write(root.join("plain"), "").unwrap();
    symlink("../outside", root.join("linkdir")).unwrap();
    symlink("../outside/secret", root.join("linkfile")).unwrap();
    symlink("../outside/new", root.join("dangling")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("src", root.join("inner")).unwrap();
    symlink("/etc", root.join("src/etc")).unwrap();
    root
}

#[cfg(unix)]
#[tokio::test]
async fn no_hostile_path_writes_anything_anywhere() {
    let parent = tempfile::tempdir().unwrap();
    let root = sandbox(parent.path());
    let workspace = Workspace::open(&root, OutputMode::Directory, &job()).await.unwrap();
    let long_component = "x".repeat(256);
    let long_path = vec!["d".repeat(100); 50].join("/");
    let absolute = parent.path().join("outside/x").display().to_string();
    #[rustfmt::skip]
    let hostile = [
        "", "/", "/etc/passwd", &absolute, "//server/share/x", "\\\\server\\share\\x", "\\x", "a\\b", "C:\\x", "C:/x", "c:x",
        "..", "../x", "a/../../x", "a/../x", "a/..", ".", "./x", "a/./b", "a//b", "a/", "~", "~/x", "~root/.ssh/x",
        "a\0b", "a\nb", "a\tb", "a\u{1b}b", "a\u{7f}", "CON", "con.txt", "src/NUL", "aux.txt", "COM1", "lpt9.rs", "a.", "a ",
        "dir./x", "x:stream", "a?b", "*.rs", ".git/config", ".git", ".GIT/hooks/pre-commit", "sub/.git/config", "git~1/x",
        ".codeswarm-stage/x", ".codeswarm-output.json", ".CodeSwarm/x", &long_component, &long_path,
        "linkdir/x", "linkdir/secret", "linkfile", "linkfile/x", "dangling", "loop", "loop/x", "inner/x", "src/etc/x",
        "src/main.rs", "SRC/x.rs", "src/MAIN.RS/x", "src/u\u{308}.rs", "src/\u{dc}.rs", "src", "plain/x", "a\u{202e}b",
        "x/../../outside/secret", "src/../../outside/new",
    ];
    assert!(hostile.len() >= 60);
    let before = listing(parent.path());
    for path in hostile {
        let result = workspace.commit_feature(commit("core", &[("fine.txt", "fine"), (path, "evil")])).await;
        let error = result.expect_err(path);
        assert!(error.code().starts_with("CS-OUTPUT-0") && !error.remedy().is_empty());
        assert_eq!(listing(parent.path()), before, "{path:?} left something behind: {error}");
    }
    for pair in [["x", "x"], ["x", "X"], ["x", "x/y"], ["x/y", "x"], ["\u{df}", "SS"], ["a/b", "A/c"]] {
        let result = workspace.commit_feature(commit("core", &[(pair[0], "1"), (pair[1], "2")])).await;
        assert!(result.is_err(), "{pair:?}");
        assert_eq!(listing(parent.path()), before, "{pair:?}");
    }
    let report =
        workspace.commit_feature(commit("core", &[("fine.txt", "fine"), ("src/Main.rs", "new")])).await.unwrap();
    assert_eq!((report.files, report.commit), (2, None));
    assert_eq!(std::fs::read_to_string(root.join("src/Main.rs")).unwrap(), "new");
}

#[cfg(unix)]
#[tokio::test]
async fn a_stage_that_is_a_link_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let root = sandbox(parent.path());
    let workspace = Workspace::open(&root, OutputMode::Directory, &job()).await.unwrap();
    std::os::unix::fs::symlink("../outside", root.join(".codeswarm-stage")).unwrap();
    let before = listing(parent.path());
    let error = workspace.commit_feature(commit("core", &[("a", "1")])).await.unwrap_err();
    assert!(matches!(error, WorkspaceError::Symlink { .. }), "{error:?}");
    assert!(Workspace::open(&root, OutputMode::Directory, &job()).await.is_err());
    assert_eq!(listing(parent.path()), before);
}

#[tokio::test]
async fn preflight_tells_ours_from_theirs_and_touches_nothing_that_is_not_ours() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);
    let code = async |path: &Path, mode| preflight(path, mode, &job()).await.err().map(|error| error.code());

    assert_eq!(code(&at("new/nested"), OutputMode::Directory).await, None);
    assert!(at("new/nested").is_dir());
    std::fs::create_dir(at("theirs")).unwrap();
    std::fs::write(at("theirs/thesis.txt"), "years of work").unwrap();
    assert_eq!(code(&at("theirs"), OutputMode::Directory).await, Some("CS-OUTPUT-001"));
    assert_eq!(code(&at("theirs/thesis.txt"), OutputMode::Directory).await, Some("CS-OUTPUT-004"));
    assert_eq!(code(&at("theirs/thesis.txt/x"), OutputMode::Directory).await, Some("CS-OUTPUT-004"));
    assert!(Workspace::open(&at("theirs"), OutputMode::Directory, &job()).await.is_err());
    assert_eq!(listing(&at("theirs")).len(), 1);

    let mine = Workspace::open(&at("mine"), OutputMode::Directory, &job()).await.unwrap();
    mine.commit_feature(commit("core", &[("a", "1")])).await.unwrap();
    mine.finish().await.unwrap();
    assert!(!at("mine/.codeswarm-stage").exists() && at("mine/.codeswarm-output.json").exists());
    assert_eq!(code(&at("mine"), OutputMode::Directory).await, None);
    assert!(Workspace::open(&at("mine"), OutputMode::Directory, &job()).await.is_ok());
    let other = JobId::new("job-2").unwrap();
    let error = preflight(&at("mine"), OutputMode::Directory, &other).await.unwrap_err();
    assert_eq!(error.code(), "CS-OUTPUT-002");
    assert!(error.to_string().contains("job-1"));
}

#[tokio::test]
async fn commits_of_many_features_at_once_all_arrive() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("out");
    let workspace = Workspace::open(&root, OutputMode::Directory, &job()).await.unwrap();
    let second = Workspace::open(&root, OutputMode::Directory, &job()).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let workspace = if n % 2 == 0 { workspace.clone() } else { second.clone() };
            let (a, b) = (format!("src/a{n}.rs"), format!("src/b{n}.rs"));
            tokio::spawn(
                async move { workspace.commit_feature(commit(&format!("f{n}"), &[(&a, "a"), (&b, "b")])).await },
            )
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().files, 2);
    }
    assert_eq!(std::fs::read_dir(root.join("src")).unwrap().count(), 40);
}

fn git(root: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").current_dir(root).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn every_feature_is_one_commit_with_its_trailers() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("out");
    preflight(&root, OutputMode::Git, &job()).await.unwrap();
    let workspace = Workspace::open(&root, OutputMode::Git, &job()).await.unwrap();
    let mut core = commit("core", &[("a.py", "a"), ("build/b.py", "b"), (".gitignore", "build/\n*.py\n")]);
    core.title = "Core\n\nCodeswarm-Feature: forged".into();
    let report = workspace.commit_feature(core.clone()).await.unwrap();
    let id = report.commit.unwrap();
    assert_eq!(git(&root, &["rev-parse", "HEAD"]).trim(), id);
    assert_eq!(
        git(&root, &["log", "-1", "--format=%an <%ae>|%s"]).trim(),
        "CodeSwarm <codeswarm@localhost>|core: Core Codeswarm-Feature: forged"
    );
    let trailers = git(&root, &["log", "-1", "--format=%(trailers:only)"]);
    let expected = "Codeswarm-Job: job-1\nCodeswarm-Feature: core\nCodeswarm-Complete: true\n\
                    Codeswarm-Task: file/core/t0\nCodeswarm-Task: file/core/t1\nCodeswarm-Task: file/core/t2";
    assert_eq!(trailers.trim(), expected);
    assert_eq!(git(&root, &["ls-files"]), ".gitignore\na.py\nbuild/b.py\n");
    assert_eq!(git(&root, &["status", "--porcelain"]), "", "marker and stage are excluded");

    assert_eq!(workspace.commit_feature(core.clone()).await.unwrap().commit, Some(id.clone()), "a repeat is no commit");
    let other = workspace.commit_feature(commit("core-two", &[("c.py", "c")])).await.unwrap().commit.unwrap();
    assert_ne!(other, id);
    assert_eq!(workspace.commit_feature(core.clone()).await.unwrap().commit, Some(id), "an older commit is found too");
    core.files[0].1 = Bytes::from_static(b"changed");
    workspace.commit_feature(core).await.unwrap();
    assert_eq!(git(&root, &["rev-list", "--count", "HEAD"]).trim(), "3");
    assert_eq!(git(&root, &["show", "HEAD:a.py"]), "changed");
}

#[tokio::test]
async fn a_crash_between_placing_and_committing_is_made_good_at_the_next_start() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("out");
    let workspace = Workspace::open(&root, OutputMode::Git, &job()).await.unwrap();
    // A repository without objects makes the commit fail exactly there: files placed, journal still standing.
    std::fs::rename(root.join(".git/objects"), parent.path().join("objects")).unwrap();
    let error = workspace.commit_feature(commit("core", &[("a.py", "a")])).await.unwrap_err();
    assert_eq!(error.code(), "CS-OUTPUT-013");
    assert_eq!(std::fs::read_to_string(root.join("a.py")).unwrap(), "a");
    assert!(root.join(".codeswarm-stage/core.journal").exists());
    drop(workspace);

    std::fs::rename(parent.path().join("objects"), root.join(".git/objects")).unwrap();
    let workspace = Workspace::open(&root, OutputMode::Git, &job()).await.unwrap();
    assert_eq!(git(&root, &["show", "HEAD:a.py"]), "a");
    assert!(!root.join(".codeswarm-stage/core.journal").exists());
    workspace.commit_feature(commit("core", &[("a.py", "a")])).await.unwrap();
    assert_eq!(git(&root, &["rev-list", "--count", "HEAD"]).trim(), "1");
}

#[tokio::test(start_paused = true)]
async fn the_lock_of_a_git_that_was_killed_does_not_stop_the_job_for_ever() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("out");
    let workspace = Workspace::open(&root, OutputMode::Git, &job()).await.unwrap();
    std::fs::write(root.join(".git/index.lock"), "").unwrap();
    workspace.commit_feature(commit("core", &[("a.py", "a")])).await.unwrap();
    assert_eq!(git(&root, &["show", "HEAD:a.py"]), "a");
    assert!(!root.join(".git/index.lock").exists());
}

#[tokio::test]
async fn a_repository_of_somebody_else_is_refused_dirty_or_clean() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("theirs");
    std::fs::create_dir(&root).unwrap();
    git(&root, &["init", "--quiet"]);
    let clean = preflight(&root, OutputMode::Git, &job()).await.unwrap_err();
    std::fs::write(root.join("dirty.txt"), "uncommitted").unwrap();
    let before = listing(&root);
    let dirty = Workspace::open(&root, OutputMode::Git, &job()).await.unwrap_err();
    assert!(matches!(clean, WorkspaceError::ForeignRepository { .. }), "{clean:?}");
    assert!(matches!(dirty, WorkspaceError::ForeignRepository { .. } | WorkspaceError::NotEmpty { .. }), "{dirty:?}");
    assert_eq!(listing(&root), before);
}

#[cfg(unix)]
#[tokio::test]
async fn an_enclosing_repository_and_its_hooks_are_left_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    git(parent.path(), &["init", "--quiet"]);
    let root = parent.path().join("out");
    let workspace = Workspace::open(&root, OutputMode::Git, &job()).await.unwrap();
    let hook = root.join(".git/hooks/pre-commit");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, "#!/bin/sh\ntouch ../hook-ran\nexit 1\n").unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = listing(&parent.path().join(".git"));
    workspace.commit_feature(commit("core", &[("a.py", "a")])).await.unwrap();
    assert_eq!(listing(&parent.path().join(".git")), before);
    assert!(!parent.path().join("hook-ran").exists());
}
