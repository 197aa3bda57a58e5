//! A local server that speaks the Messages API with scripted replies and faults, and bills for them.
//!
//! Only arguments and printing live here; the server is `codeswarm::llm::replay`, the same that `--replay` runs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use codeswarm::error::report;
use codeswarm::llm::replay::{Bill, FakeOptions, FakeServer, Latency, ReplayError, Script};

/// Answers the Anthropic Messages API from a script, on this machine, for free.
#[derive(Debug, Parser)]
#[command(name = "fake-claude", version)]
struct Arguments {
    /// Replies, as JSON Lines.
    #[arg(long, value_name = "FILE")]
    script: PathBuf,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Log every billed call to this file, and go on with the bill that is there.
    #[arg(long, value_name = "FILE")]
    bill: Option<PathBuf>,
    /// Delay of every reply in milliseconds, besides its own.
    #[arg(long, value_name = "N", default_value_t = 0)]
    latency_ms: u64,
    /// Spread the delay log-normally around that median, the same way for the same seed.
    #[arg(long, value_name = "N", requires = "latency_ms")]
    seed: Option<u64>,
}

impl Arguments {
    fn latency(&self) -> Latency {
        let median = Duration::from_millis(self.latency_ms);
        match self.seed {
            _ if median.is_zero() => Latency::None,
            None => Latency::Fixed(median),
            Some(seed) => Latency::LogNormal { median, sigma: 0.5, seed },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
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
    let script = Script::load(&arguments.script)?;
    let (replies, latency) = (script.len(), arguments.latency());
    let options =
        FakeOptions { address: arguments.listen, latency, bill_path: arguments.bill, ..FakeOptions::default() };
    let server = FakeServer::start(script, options).await?;
    let url = server.base_url();
    say(&format!(
        "{url}\nreplies: {replies}; use it with\n  \
         ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=any codeswarm run PROPOSAL\n\
         the bill is at {url}/bill; Ctrl-C stops\n"
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
