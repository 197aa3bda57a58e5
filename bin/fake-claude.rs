//! A local server that speaks the Messages API and chat completions with scripted replies and faults, and bills for them.
//!
//! Only arguments and printing live here; the server is `codeswarm::llm::replay`, the same that `--replay` runs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
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
A line may have a fault (--faults lists them), or several: {\"fault\":\"other-model+cut-mid-stream\"}.
The request is what the prompt's last line that begins with 'Request: ' says; {{id}} stands for the id in it.

Addresses: /v1/messages, /v1/messages/count_tokens, /v1/chat/completions, /v1/models; / is the bill as a page, /bill as
JSON (DELETE starts again). Any key is accepted. Prices are those of `codeswarm models`; other models are answered 404.

Examples:
  fake-claude --synthetic 6x4 --latency-ms 800 --seed 1      a whole made-up job, with delays like real ones
  fake-claude --script replies.jsonl --bill bill.jsonl       recorded replies (codeswarm run --record FILE)
  fake-claude --synthetic 15x8 --requests-per-minute 100 --concurrency-limit 20
  fake-claude --synthetic 6x4 --count-fault status-429       for llm.count_tokens = true";

/// Most files of a made-up job.
const MOST_FILES: usize = 10_000;

/// Largest limit that can be set for a minute.
const MOST_PER_MINUTE: u64 = 1_000_000_000;

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
    #[arg(long, value_name = "N", default_value_t = 0, requires = "synthetic", value_parser = |text: &str| whole::<usize>(text, 0, 100_000))]
    edges: usize,
    /// With --synthetic: bytes of every file, about.
    #[arg(long, value_name = "N", default_value_t = 400, requires = "synthetic", value_parser = |text: &str| whole::<usize>(text, 1, 100_000))]
    file_bytes: usize,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Log every billed call to this file, and go on with the bill that is there.
    #[arg(long, value_name = "FILE")]
    bill: Option<PathBuf>,
    /// Milliseconds that every call takes, besides what its line says.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = |text: &str| whole::<u64>(text, 0, 600_000))]
    latency_ms: u64,
    /// Share of a call's time after which its reply begins, if it is streamed; the rest is spread over the rest of the time.
    #[arg(long, value_name = "PERCENT", default_value_t = FakeOptions::default().first_byte_percent,
        value_parser = clap::value_parser!(u32).range(0..=100))]
    first_byte_percent: u32,
    /// Spread the time log-normally around that median, the same way for the same seed; also shapes --synthetic.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// With --seed: standard deviation of the logarithm of the time; real calls lie between 0.3 and 1.
    #[arg(long, value_name = "X", default_value_t = 0.5, value_parser = spread)]
    sigma: f64,
    /// Answer 429 beyond so many requests a minute.
    #[arg(long, value_name = "N", value_parser = |text: &str| whole::<u64>(text, 1, MOST_PER_MINUTE))]
    requests_per_minute: Option<u64>,
    /// Answer 429 beyond so many input tokens a minute.
    #[arg(long, value_name = "N", value_parser = |text: &str| whole::<u64>(text, 1, MOST_PER_MINUTE))]
    input_tokens_per_minute: Option<u64>,
    /// Answer 429 beyond so many output tokens a minute.
    #[arg(long, value_name = "N", value_parser = |text: &str| whole::<u64>(text, 1, MOST_PER_MINUTE))]
    output_tokens_per_minute: Option<u64>,
    /// Answer 429 beyond so many calls at once.
    #[arg(long, value_name = "N", value_parser = |text: &str| whole::<usize>(text, 1, 1_000_000))]
    concurrency_limit: Option<usize>,
    /// Let every count of tokens go wrong in this way (--faults lists them; those that only a reply can have do nothing).
    #[arg(long, value_name = "FAULT", value_parser = Fault::from_str)]
    count_fault: Option<Fault>,
    /// Accept calls without a key, as local model servers do.
    #[arg(long)]
    no_key: bool,
    /// List the faults a line of a script may name, and end.
    #[arg(long)]
    faults: bool,
}

/// `6x4` as (6, 4), of at most as many files as the server can hold.
fn dimensions(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number > 0);
    let parts = text.split_once('x').and_then(|(features, files)| Some((number(features)?, number(files)?)));
    let fitting = parts.filter(|(features, files)| features.checked_mul(*files).is_some_and(|all| all <= MOST_FILES));
    fitting
        .ok_or_else(|| format!("say how many features of how many files, at most {MOST_FILES} files in all, as in 6x4"))
}

/// A whole number from `least` to `most`.
fn whole<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("say a whole number from {least} to {most}"))
}

/// A standard deviation with which some calls are still answered.
fn spread(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=3.0).contains(number));
    number.ok_or_else(|| "say a number from 0 to 3, as in 0.5".to_owned())
}

/// Features and files a feature that codeswarm takes unless it is configured otherwise.
const FEATURES: std::ops::RangeInclusive<usize> = 5..=15;
const FILES: std::ops::RangeInclusive<usize> = 2..=8;

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

    /// What will be answered, for people.
    fn serves(&self) -> String {
        let scripted = self.script.as_ref().map(|path| format!("those of {}", path.display()));
        let made_up = self.synthetic.map(|(features, files)| {
            let fits = FEATURES.contains(&features) && FILES.contains(&files);
            let advice =
                if fits { "" } else { " (codeswarm refuses this plan unless its limits under [job] are changed)" };
            format!("a made-up job of {features}x{files} files{advice}")
        });
        match (scripted, made_up) {
            (Some(scripted), Some(made_up)) => format!("{scripted}, {made_up}, and a valid one to everything else"),
            (Some(scripted), None) => format!("{scripted}; any other request is answered 400"),
            (None, Some(made_up)) => format!("{made_up}, and a valid one to everything else"),
            (None, None) => "every request is answered 400; start with --script FILE or --synthetic for more".into(),
        }
    }

    fn options(&self) -> FakeOptions {
        FakeOptions {
            address: self.listen,
            latency: self.latency(),
            first_byte_percent: self.first_byte_percent,
            bill_path: self.bill.clone(),
            prices: None,
            own_prices: None,
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
    let serves = arguments.serves();
    let replies = script.len();
    let server = FakeServer::start(script, arguments.options()).await?;
    let (url, stop) = (server.base_url(), stop_signal());
    say(&format!(
        "{url}\nreplies: {replies}; {serves}\nuse it with\n  \
         ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=any codeswarm run PROPOSAL\n  \
         OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=any codeswarm run PROPOSAL --model openai/gpt-6.1-sol\n\
         the bill is at {url}/; Ctrl-C stops\n"
    ));
    stop.await;
    Ok(server.stop().await)
}

/// Ctrl-C, or a supervisor's request to end; both are listened for from now on, not only once somebody waits.
fn stop_signal() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let signals = {
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    };
    async move {
        #[cfg(unix)]
        if let (Ok(mut interrupt), Ok(mut terminate)) = signals {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
        drop(tokio::signal::ctrl_c().await);
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no reason to stop answering.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
