//! The worked example through two coordinators and eleven worker processes: the same files as on one machine.
//!
//! Whatever the fleet is made of, a job must not be able to tell.

use codeswarm::backend::Scope;
use codeswarm::llm::replay::Script;
use codeswarm::protocol::{Event, JobOutcome, MicroUsd};

use super::Cluster;
use crate::support::{AGENTS, Example, Sandbox, Tree, differences, tree};

const EXAMPLE: Example = Example::LINK_SHORTENER;

/// What the same job writes on one machine without servers.
fn embedded() -> Tree {
    let sandbox = Sandbox::new();
    sandbox.run(EXAMPLE, &[]).expect_code(0);
    sandbox.output()
}

#[test]
fn separate_processes_write_the_same_files_as_one() {
    let cluster = Cluster::start(Script::load(&EXAMPLE.replay()).unwrap(), &[]);
    let mut fleet = vec![cluster.coordinator(), cluster.coordinator()];
    fleet.extend(AGENTS.iter().map(|agent| cluster.worker(agent)));
    let backend = cluster.backend();
    let proposal = EXAMPLE.proposal().display().to_string();
    let ended = cluster.codeswarm(&["submit", &proposal, "--budget", "50", "--yes", "--wait", "--json"]).expect_code(0);
    let told = ended.json();
    assert_eq!(told["outcome"], "completed", "{told}");
    let job = cluster.books().only_job();
    assert!(matches!(cluster.wait_for_end(&backend, &job), Event::JobEnded { outcome: JobOutcome::Completed, .. }));
    let (billed, calls, keys) = cluster.billed();
    let balance = cluster.balance(&backend, &Scope::Job(job.clone()));
    assert_eq!((balance.spent, balance.reserved), (billed, MicroUsd::ZERO), "to the micro-dollar");
    assert!(keys.values().all(|calls| *calls == 1) && calls == 27, "nothing was paid for twice: {keys:?}");

    let expected = embedded();
    let work = cluster.sandbox.work();
    for (name, arguments) in [("fetched", &["--out", "fetched"][..]), ("again", &["--out", "again", "--format", "dir"])]
    {
        cluster.codeswarm(&[&["fetch", job.as_str()], arguments].concat()).expect_code(0);
        let mut files = tree(&work.join(name));
        files.retain(|path, _| !path.starts_with(".codeswarm-"));
        assert_eq!(differences(&expected, &files), "", "{name}");
    }
    cluster.codeswarm(&["fetch", job.as_str(), "--out", "all.tar"]).expect_code(0);
    std::fs::create_dir(work.join("untarred")).unwrap();
    tar::Archive::new(std::fs::File::open(work.join("all.tar")).unwrap()).unpack(work.join("untarred")).unwrap();
    assert_eq!(differences(&expected, &tree(&work.join("untarred"))), "", "tar");
    cluster.codeswarm(&["fetch", job.as_str(), "--out", "all.bundle"]).expect_code(0);
    let clone =
        std::process::Command::new("git").args(["clone", "-q", "all.bundle", "cloned"]).current_dir(&work).status();
    assert!(clone.unwrap().success());
    let mut cloned = tree(&work.join("cloned"));
    cloned.retain(|path, _| !path.starts_with(".git/"));
    assert_eq!(differences(&expected, &cloned), "", "bundle");
    Cluster::stop_all(fleet);
}

#[test]
fn two_fleets_share_servers_without_meeting() {
    let cluster = Cluster::start(Script::load(&EXAMPLE.replay()).unwrap(), &[("CODESWARM_STORAGE_NAMESPACE", "one")]);
    let fleet = vec![cluster.coordinator(), cluster.worker_of_all()];
    let job = cluster.submit(&EXAMPLE.proposal(), &[]);
    let backend = cluster.backend();
    cluster.wait_for_end(&backend, &job);
    let mut other = cluster.command("codeswarm", &["list", "--json"]);
    other.env("CODESWARM_STORAGE_NAMESPACE", "two");
    let listed = crate::support::Running::start(&mut other).end().expect_code(0).json();
    assert_eq!(listed["jobs"].as_array().map(Vec::len), Some(0), "{listed}");
    Cluster::stop_all(fleet);
}
