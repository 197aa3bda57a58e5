//! A local server that speaks the Messages API and chat completions with scripted replies and faults, and bills for them.
//!
//! Only arguments and printing live here; the server is `codeswarm::llm::replay`, the same that `--replay` runs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use codeswarm::error::report;
use codeswarm::llm::replay::{
    Bill, FakeOptions, FakeServer, Fault, Latency, RateLimits, ReplayError, Script, Synthetic,
};

/// What `--help` ends with.
const EXAMPLES: &str = "\
A script is JSON Lines: a header, then one reply a line. Lines with the same request answer successive calls, the last repeats.
  {\"codeswarm_replay\":1,\"recorded\":\"2026-11-21\",\"note\":\"mine\"}
  {\"request\":\"plan\",\"fault\":\"status-429\",\"retry_after\":2}
  {\"request\":\"plan\",\"text\":\"{...}\",\"output_tokens\":900,\"thinking_tokens\":300,\"delay_ms\":500}
  {\"request\":\"file src/a.py\",\"text\":\"<file path=\\\"src/a.py\\\" id=\\\"{{id}}\\\">\\n...\\n</file-{{id}}>\"}
The request is what the prompt's last line that begins with 'Request: ' says; {{id}} stands for the id in it.

Addresses: /v1/messages, /v1/messages/count_tokens, /v1/chat/completions, /v1/models; / is the bill as a page, /bill as
JSON (DELETE starts again). Any key is accepted. Prices are those of `codeswarm models`; other models are answered 404.

Examples:
  fake-claude --synthetic 6x4 --latency-ms 800 --seed 1      a whole made-up job, with delays like real ones
  fake-claude --script replies.jsonl --bill bill.jsonl       recorded replies (codeswarm run --record FILE)
  fake-claude --synthetic 20x5 --requests-per-minute 100 --concurrency-limit 20
  fake-claude --synthetic 6x4 --count-fault status-429       for llm.count_tokens = true";

/// Answers the Anthropic Messages API and OpenAI chat completions on this machine, for free.
#[derive(Debug, Parser)]
#[command(name = "fake-claude", version, after_help = EXAMPLES, max_term_width = 120)]
struct Arguments {
    /// Replies, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Make up a job of so many features of so many files each, and a valid reply to everything else.
    #[arg(long, value_name = "FEATURESxFILES", value_parser = dimensions, num_args = 0..=1, default_missing_value = "6x4")]
    synthetic: Option<(usize, usize)>,
    /// With --synthetic: dependencies between files of different features.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "synthetic")]
    edges: usize,
    /// With --synthetic: bytes of every file, about.
    #[arg(long, value_name = "N", default_value_t = 400, requires = "synthetic")]
    file_bytes: usize,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Log every billed call to this file, and go on with the bill that is there.
    #[arg(long, value_name = "FILE")]
    bill: Option<PathBuf>,
    /// Milliseconds that every call takes, besides what its line says.
    #[arg(long, value_name = "N", default_value_t = 0)]
    latency_ms: u64,
    /// Share of a call's time after which its reply begins, if it is streamed; the rest is spread over the rest of the time.
    #[arg(long, value_name = "PERCENT", default_value_t = FakeOptions::default().first_byte_percent,
        value_parser = clap::value_parser!(u32).range(0..=100))]
    first_byte_percent: u32,
    /// Spread the time log-normally around that median, the same way for the same seed; also shapes --synthetic.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// With --seed: standard deviation of the logarithm of the time; real calls lie between 0.3 and 1.
    #[arg(long, value_name = "X", default_value_t = 0.5)]
    sigma: f64,
    /// Answer 429 beyond so many requests a minute.
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Answer 429 beyond so many input tokens a minute.
    #[arg(long, value_name = "N")]
    input_tokens_per_minute: Option<u64>,
    /// Answer 429 beyond so many output tokens a minute.
    #[arg(long, value_name = "N")]
    output_tokens_per_minute: Option<u64>,
    /// Answer 429 beyond so many calls at once.
    #[arg(long, value_name = "N")]
    concurrency_limit: Option<usize>,
    /// Let every count of tokens go wrong in this way (--faults lists them; those that only a reply can have do nothing).
    #[arg(long, value_name = "FAULT", value_parser = fault)]
    count_fault: Option<Fault>,
    /// Accept calls without a key, as local model servers do.
    #[arg(long)]
    no_key: bool,
    /// List the faults a line of a script may name, and end.
    #[arg(long)]
    faults: bool,
}

/// `6x4` as (6, 4), each from 1 to 10,000.
fn dimensions(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.parse().ok().filter(|number| (1..=10_000).contains(number));
    let parts = text.split_once('x').and_then(|(features, files)| Some((number(features)?, number(files)?)));
    parts.ok_or_else(|| "say how many features of how many files, each from 1 to 10000, as in 6x4".to_owned())
}

fn fault(name: &str) -> Result<Fault, String> {
    let found = Fault::ALL.into_iter().find(|fault| fault.name() == name);
    found.ok_or_else(|| "there is no such fault; --faults lists them".to_owned())
}

impl Arguments {
    fn latency(&self) -> Latency {
        let median = Duration::from_millis(self.latency_ms);
        match self.seed {
            _ if median.is_zero() => Latency::None,
            None => Latency::Fixed(median),
            Some(seed) => Latency::LogNormal { median, sigma: self.sigma, seed },
        }
    }

    fn script(&self) -> Result<Script, ReplayError> {
        let mut script = match &self.script {
            Some(path) => Script::load(path)?,
            None => Script::new(),
        };
        if let Some((features, files)) = self.synthetic {
            let job = Synthetic::new(features, files, self.seed.unwrap_or(1)).cross_edges(self.edges);
            // The ids of so few features are always valid.
            if let Ok(job) = job.file_bytes(self.file_bytes).build() {
                script = job.script.merged(script);
            }
        }
        Ok(script)
    }

    fn options(&self) -> FakeOptions {
        FakeOptions {
            address: self.listen,
            latency: self.latency(),
            first_byte_percent: self.first_byte_percent,
            bill_path: self.bill.clone(),
            prices: None,
            limits: RateLimits {
                requests_per_minute: self.requests_per_minute,
                input_tokens_per_minute: self.input_tokens_per_minute,
                output_tokens_per_minute: self.output_tokens_per_minute,
                concurrent_calls: self.concurrency_limit,
                minute: None,
            },
            generates: self.synthetic.is_some(),
            needs_key: !self.no_key,
            count_fault: self.count_fault,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.faults {
        say(&Fault::ALL.map(|fault| format!("{:<22} {}\n", fault.name(), fault.about())).concat());
        return ExitCode::SUCCESS;
    }
    match run(arguments).await {
        Ok(bill) => {
            say(&format!("billed {} calls: {} ({} output tokens)\n", bill.calls, bill.cost_micros, bill.usage.output));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = report(&error) + "\n";
            // Nobody is left to tell when the error stream is closed.
            drop(std::io::stderr().write_all(text.as_bytes()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<Bill, ReplayError> {
    let script = arguments.script()?;
    let replies = script.len();
    let server = FakeServer::start(script, arguments.options()).await?;
    let url = server.base_url();
    say(&format!(
        "{url}\nreplies: {replies}; use it with\n  \
         ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=any codeswarm run PROPOSAL\n  \
         OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=any codeswarm run PROPOSAL --model openai/gpt-6.1-sol\n\
         the bill is at {url}/; Ctrl-C stops\n"
    ));
    stop_signal().await;
    Ok(server.stop().await)
}

/// Ctrl-C, or a supervisor's request to end.
async fn stop_signal() {
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        return;
    }
    drop(tokio::signal::ctrl_c().await);
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no reason to stop answering.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
