//! Whole runs of the real program over each wire format, and runs that are recorded and played again.
//!
//! The provider is the local server on a real socket; what counts is the files, the ledger and the server's own bill.

use std::process::Command;

use codeswarm::backend::EntryKind;
use codeswarm::job::JobStatus;
use codeswarm::llm::replay::{FakeOptions, FakeServer, Fault, Reply, Script, Synthetic, SyntheticJob};
use codeswarm::protocol::{JobOutcome, MicroUsd};

use crate::support::servers::nats::NatsServer;
use crate::support::servers::redis::RedisServer;
use crate::support::{Books, Ended, Running, Sandbox, differences};

const KEY: &str = "sk-5ecret-0f-th1s-run";

/// A server on a runtime of its own, so that tests can wait for programs without stopping it.
struct Provider {
    runtime: tokio::runtime::Runtime,
    server: FakeServer,
}

impl Provider {
    fn start(script: Script, options: FakeOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(FakeServer::start(script, options)).unwrap();
        Self { runtime, server }
    }

    fn billed(&self) -> MicroUsd {
        self.server.bill().cost_micros
    }

    fn stop(self) {
        self.runtime.block_on(self.server.stop());
    }
}

fn job() -> SyntheticJob {
    Synthetic::new(5, 3, 11).local_edges(40).cross_edges(6).build().unwrap()
}

/// `codeswarm run` of a made-up proposal with this configuration.
fn command(sandbox: &Sandbox, configuration: &str, arguments: &[&str]) -> Command {
    std::fs::write(sandbox.work().join("proposal.md"), "# A program\n\nWrite a few files.\n").unwrap();
    std::fs::write(sandbox.work().join("codeswarm.toml"), configuration).unwrap();
    let mut command = sandbox.codeswarm(&["run", "proposal.md", "--yes", "--budget", "50"]);
    command.arg("--out").arg(sandbox.out()).args(arguments);
    command.env("CODESWARM_LLM_RETRY_FIRST_DELAY_MS", "1").env("CODESWARM_LLM_RETRY_LONGEST_DELAY_MS", "5");
    command
}

fn run(sandbox: &Sandbox, configuration: &str, arguments: &[&str]) -> Ended {
    Running::start(command(sandbox, configuration, arguments).env("OPENAI_API_KEY", KEY).env("ANTHROPIC_API_KEY", KEY))
        .end()
}

/// The job is complete, and nobody paid less than was billed.
fn assert_complete(sandbox: &Sandbox, job: &SyntheticJob, billed: MicroUsd) -> MicroUsd {
    let output = sandbox.output();
    assert_eq!(output.len(), job.tasks.len(), "{:?}", output.keys());
    let books = Books::open(&sandbox.data());
    let id = books.only_job();
    assert_eq!(books.job(&id).status(), JobStatus::Ended(JobOutcome::Completed));
    let balance = books.balance(&id);
    assert_eq!(balance.reserved, MicroUsd::ZERO);
    assert!(billed <= balance.spent, "{billed} billed, {} spent", balance.spent);
    balance.spent
}

#[test]
fn a_job_runs_through_every_kind_of_endpoint() {
    let job = job();
    for (kind, model, table) in [
        ("anthropic", "claude-sonnet-5-5", ""),
        ("openai", "openai/gpt-6.1-sol", ""),
        ("openrouter", "openrouter/gpt-6.1-sol", "key_variable = \"OPENAI_API_KEY\"\nprice = \"list\""),
        ("vllm", "vllm/gpt-6.1-terra", "price = \"list\""),
        ("llama-cpp", "llama-cpp/gpt-6.1-terra", "price = \"list\""),
        ("ollama", "ollama/gpt-6.1-terra", "price = \"list\"\nusage_in_stream = false"),
    ] {
        let options = FakeOptions { needs_key: !table.is_empty(), ..FakeOptions::default() };
        let options = FakeOptions { needs_key: options.needs_key && kind == "openrouter", ..options };
        let provider = Provider::start(job.script.clone(), options);
        let url = provider.server.base_url();
        let path = if kind == "anthropic" { "" } else { "/v1" };
        let configuration = format!(
            "[llm]\nmodel = \"{model}\"\nbase_url = \"{url}\"\nopenai_base_url = \"{url}/v1\"\n\
             [providers.{kind}]\nbase_url = \"{url}{path}\"\n{table}\n"
        );
        let sandbox = Sandbox::new();
        let ended = run(&sandbox, &configuration, &[]).expect_code(0);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains(KEY), "{kind}: the key was printed");
        let billed = provider.billed();
        let spent = assert_complete(&sandbox, &job, billed);
        assert!(billed > MicroUsd::ZERO, "{kind}");
        // Without usage every call is charged in full; with it, exactly what the server bills.
        assert_eq!(spent == billed, !table.contains("usage_in_stream"), "{kind}: {spent} spent, {billed} billed");
        provider.stop();
    }
}

#[test]
fn case_04_a_free_model_has_to_be_declared_free() {
    let job = job();
    let prices = codeswarm::budget::PriceTable::builtin().unwrap();
    let free = prices.with_endpoint("ollama", codeswarm::budget::EndpointPrices::Free);
    let options = FakeOptions { needs_key: false, prices: Some(free.into()), ..FakeOptions::default() };
    let provider = Provider::start(job.script.clone(), options);
    let url = provider.server.base_url();
    let configuration = |price: &str| {
        format!(
            "[llm]\nprovider = \"ollama\"\nmodel = \"my-model\"\n[providers.ollama]\nbase_url = \"{url}/as/ollama/v1\"\n{price}\n"
        )
    };
    let sandbox = Sandbox::new();
    let refused = run(&sandbox, &configuration(""), &[]).expect_code(1);
    assert!(
        refused.stderr.contains("CS-FLEET-003") && refused.stderr.contains("ollama/my-model"),
        "{}",
        refused.stderr
    );
    assert_eq!(provider.server.requests(), 0);
    run(&sandbox, &configuration("price = 0"), &[]).expect_code(0);
    assert_eq!(assert_complete(&sandbox, &job, provider.billed()), MicroUsd::ZERO);
    provider.stop();
}

/// What `budget show` says of the job's tokens: ceiling, spent, reserved.
fn tokens(shown: &serde_json::Value) -> [u64; 3] {
    ["limit", "spent", "reserved"].map(|what| shown["tokens"][format!("{what}_tokens")].as_u64().unwrap())
}

/// Runs a job on a free model with too few tokens, then with enough.
fn run_into_the_ceiling(stores: &[(&str, String)]) {
    const CEILING: u64 = 25_000;
    let job = job();
    let prices = codeswarm::budget::PriceTable::builtin().unwrap();
    let free = prices.with_endpoint("ollama", codeswarm::budget::EndpointPrices::Free);
    let options = FakeOptions { needs_key: false, prices: Some(free.into()), ..FakeOptions::default() };
    let provider = Provider::start(job.script.clone(), options);
    let configuration = format!(
        "[job]\nfree_tokens = {CEILING}\n[llm]\nprovider = \"ollama\"\nmodel = \"my-model\"\nmax_output_tokens = 2000\n\
         [providers.ollama]\nbase_url = \"{}/as/ollama/v1\"\nprice = 0\n",
        provider.server.base_url()
    );
    let sandbox = Sandbox::new();
    let stores = || stores.iter().map(|(name, value)| (*name, value.as_str()));
    let codeswarm = |arguments: &[&str]| Running::start(sandbox.codeswarm(arguments).envs(stores())).end();
    let ended = Running::start(command(&sandbox, &configuration, &["--json"]).envs(stores())).end().expect_code(4);
    let ended = ended.json();
    let (id, reason) = (ended["job"].as_str().unwrap(), ended["reason"].as_str().unwrap());
    assert!(reason.contains("tokens left in job:") && reason.contains("/tokens TOKENS"), "{reason}");
    let used = provider.server.bill().usage.total();
    let [ceiling, spent, reserved] = tokens(&codeswarm(&["budget", "show", id, "--json"]).expect_code(0).json());
    assert_eq!((ceiling, reserved), (CEILING, 0));
    assert!(0 < used && used <= spent && spent <= CEILING, "{used} used, {spent} counted");
    let shown = codeswarm(&["budget", "show", id]).expect_code(0).stdout;
    assert!(shown.contains("tokens of free models") && shown.contains(&format!("{CEILING} tok")), "{shown}");

    let topped = codeswarm(&["budget", "top-up", &format!("{id}/tokens"), "9000000"]).expect_code(0).stdout;
    assert!(topped.contains("a limit of 9025000 tokens"), "{topped}");
    codeswarm(&["resume", id, "--yes"]).expect_code(0);
    let [_, spent, reserved] = tokens(&codeswarm(&["budget", "show", id, "--json"]).json());
    assert_eq!((spent, reserved), (provider.server.bill().usage.total(), 0), "every token is counted once");
    provider.stop();
}

#[test]
fn case_04_a_free_model_stays_within_its_ceiling_of_tokens() {
    run_into_the_ceiling(&[]);
}

#[test]
fn case_04_a_free_model_stays_within_its_ceiling_of_tokens_on_servers() {
    let (nats, redis) = (NatsServer::start(), RedisServer::start());
    run_into_the_ceiling(&[
        ("CODESWARM_BACKEND", "nats".into()),
        ("NATS_URL", nats.url()),
        ("REDIS_URL", redis.url()),
        ("CODESWARM_STORAGE_DURABILITY", "process".into()),
    ]);
}

#[test]
fn a_role_falls_back_to_another_provider_and_every_attempt_is_on_the_bill() {
    let job = job();
    let refusing = |fault| {
        let mut script = Script::new();
        for task in &job.tasks {
            script.push(&format!("file {}", task.path), Reply::new("").fault(fault));
        }
        job.script.clone().merged(script)
    };
    for (fault, is_billed) in [(Fault::Status529, false), (Fault::Status404, false), (Fault::Status500, true)] {
        let first = Provider::start(refusing(fault), FakeOptions::default());
        let second = Provider::start(job.script.clone(), FakeOptions::default());
        let configuration = format!(
            "[llm]\nbase_url = \"{}\"\nopenai_base_url = \"{}/v1\"\nfallback = [\"openai/gpt-6.1-sol\"]\n",
            first.server.base_url(),
            second.server.base_url()
        );
        let sandbox = Sandbox::new();
        run(&sandbox, &configuration, &[]).expect_code(0);
        let files = u64::try_from(job.tasks.len()).unwrap();
        assert_eq!(second.server.requests(), files, "{fault:?}");
        assert_eq!(second.server.bill().calls, files);
        let billed = MicroUsd(first.billed().0 + second.billed().0);
        let spent = assert_complete(&sandbox, &job, billed);
        // What a 500 cost is unknown: the reservations of its three attempts are spent.
        assert_eq!(spent > billed, is_billed, "{fault:?}: {spent} spent, {billed} billed");
        first.stop();
        second.stop();
    }
}

#[test]
fn a_recorded_run_replays_to_the_same_tree_with_other_schedules_and_holds_no_key() {
    let job = job();
    for (model, fault) in [("claude-sonnet-5-5", Fault::MaxTokens), ("openai/gpt-6.1-sol", Fault::EmptyEndTurn)] {
        // Two tasks need a second attempt, so order within a task matters.
        let mut script = job.script.clone();
        for task in job.tasks.iter().take(2) {
            let key = format!("file {}", task.path);
            let right = Reply::new(format!(
                "<file path=\"{0}\" id=\"{{{{id}}}}\">\nNAME = \"{0}\"\nMARK = \"{{{{call-id}}}}\"\n</file-{{{{id}}}}>\n",
                task.path
            ));
            let wrong = Script::new().reply(&key, Reply::new("half").fault(fault)).reply(&key, right);
            script = script.merged(wrong);
        }
        let provider = Provider::start(script, FakeOptions::default());
        let url = provider.server.base_url();
        let configuration =
            format!("[llm]\nmodel = \"{model}\"\nbase_url = \"{url}\"\nopenai_base_url = \"{url}/v1\"\n");
        let sandbox = Sandbox::new();
        let recording = sandbox.work().join("recorded.jsonl");
        run(&sandbox, &configuration, &["--record", "recorded.jsonl", "--concurrency", "8"]).expect_code(0);
        assert_complete(&sandbox, &job, provider.billed());
        provider.stop();
        let text = std::fs::read_to_string(&recording).unwrap();
        assert!(!text.contains(KEY), "the key was recorded");
        assert_eq!(text.lines().count(), 1 + 1 + 5 + job.tasks.len() + 2, "{text}");

        for concurrency in ["1", "8"] {
            let again = Sandbox::new();
            let replay = recording.to_str().unwrap();
            run(&again, &configuration, &["--replay", replay, "--concurrency", concurrency]).expect_code(0);
            assert_eq!(differences(&sandbox.output(), &again.output()), "", "{model} at {concurrency}");
        }
    }
}

#[test]
fn case_21_every_call_of_a_run_is_reserved_the_repeats_of_unusable_replies_too() {
    let job = job();
    let mut script = job.script.clone();
    let feature = job.plan.features[0].id.clone();
    for key in ["plan".to_owned(), format!("feature-plan {feature}"), format!("file {}", job.tasks[0].path)] {
        // Half a plan follows no schema, and half a file is none.
        let wrong = Reply::new("{\"half\":").fault(Fault::MaxTokens);
        script = script.preceded(&key, wrong);
    }
    let provider = Provider::start(script, FakeOptions::default());
    let configuration = format!("[llm]\nbase_url = \"{}\"\n", provider.server.base_url());
    let sandbox = Sandbox::new();
    run(&sandbox, &configuration, &[]).expect_code(0);
    let spent = assert_complete(&sandbox, &job, provider.billed());
    assert_eq!(spent, provider.billed());
    let books = Books::open(&sandbox.data());
    let entries = books.entries(&books.only_job());
    let of = |kind| entries.iter().filter(|entry| entry.kind == kind).count();
    let calls = 1 + job.plan.features.len() + job.tasks.len() + 3;
    assert_eq!((of(EntryKind::Reserve), of(EntryKind::Settle)), (calls, calls), "{entries:?}");
    assert_eq!(provider.server.requests(), calls as u64);
    provider.stop();
}

#[test]
fn each_model_keeps_to_the_limits_of_its_own() {
    let job = job();
    let provider = Provider::start(job.script.clone(), FakeOptions::default());
    let url = provider.server.base_url();
    let configuration = format!(
        "[llm]\nbase_url = \"{url}\"\n[roles.coordinator-planner]\nmodel = \"claude-haiku-4-5\"\n\
         [limits]\nrequests_per_window = 5000\n[providers.anthropic]\nrequests_per_window = 4000\n\
         models = [{{ name = \"claude-haiku-4-5\", requests_per_window = 300, output_tokens_per_window = 900000 }}]\n"
    );
    let sandbox = Sandbox::new();
    run(&sandbox, &configuration, &[]).expect_code(0);
    let said = Running::start(sandbox.codeswarm(&["doctor"]).env("ANTHROPIC_API_KEY", KEY)).end().stdout;
    let line = |model: &str| said.lines().find(|line| line.contains(&format!("anthropic/{model}"))).unwrap_or(&said);
    let (planner, others) = (line("claude-haiku-4-5"), line("claude-sonnet-5-5"));
    assert!(planner.contains("of 300 requests left") && planner.contains("of 900000 output tokens"), "{planner}");
    assert!(others.contains("of 4000 requests left") && !others.contains("tokens"), "{others}");
    provider.stop();
}

#[test]
fn an_input_is_counted_only_if_the_configuration_says_so() {
    let job = job();
    for counts in [false, true] {
        let provider = Provider::start(job.script.clone(), FakeOptions::default());
        let configuration = format!("[llm]\nbase_url = \"{}\"\ncount_tokens = {counts}\n", provider.server.base_url());
        let sandbox = Sandbox::new();
        std::fs::write(sandbox.work().join("proposal.md"), "# A program\n\nWrite a few files.\n").unwrap();
        std::fs::write(sandbox.work().join("codeswarm.toml"), configuration).unwrap();
        // Enough for one call of full size at a time, so that some do not fit by their bytes.
        let mut run = sandbox.codeswarm(&["run", "proposal.md", "--yes", "--budget", "0.40", "--out", "out"]);
        let ended = Running::start(run.env("ANTHROPIC_API_KEY", KEY)).end();
        assert!(matches!(ended.code(), Some(0 | 4)), "{}{}", ended.stdout, ended.stderr);
        assert_eq!(provider.server.counts() > 0, counts, "{} counts", provider.server.counts());
        let books = Books::open(&sandbox.data());
        let balance = books.balance(&books.only_job());
        let billed = provider.billed();
        assert!(billed > MicroUsd::ZERO && billed <= balance.spent, "{billed} billed, {balance:?}");
        assert!(balance.limit.is_some_and(|limit| balance.spent <= limit), "{balance:?}");
        provider.stop();
    }
}

#[test]
fn the_local_server_makes_a_whole_job_up_and_its_rate_limit_is_lived_with() {
    let sandbox = Sandbox::new();
    let arguments =
        ["--synthetic", "5x3", "--edges", "4", "--latency-ms", "5", "--seed", "3", "--concurrency-limit", "3"];
    let mut server = Running::start(&mut sandbox.command(env!("CARGO_BIN_EXE_fake-claude"), &arguments));
    let url = server.wait_for(|line| line.starts_with("http://")).expect("says where it listens");
    let configuration = format!("[llm]\nbase_url = \"{url}\"\nattempts = 10\n");
    let mut program = command(&sandbox, &configuration, &["--concurrency", "8"]);
    Running::start(program.env("ANTHROPIC_API_KEY", KEY)).end().expect_code(0);
    assert_eq!(sandbox.output().len(), 15);
    server.signal("TERM");
    let ended = server.end().expect_code(0);
    assert!(ended.stdout.contains("billed 21 calls"), "{}", ended.stdout);
}
