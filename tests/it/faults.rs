//! What models and providers get wrong: each fault is retried within bounds, told to the model, and paid for exactly once.
//!
//! Runs talk to a scripted server through a tap that writes down every request, so that tests see what the model was told.

mod files;
mod hostile;
mod plans;
mod provider;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use codeswarm::llm::replay::{FakeOptions, FakeServer, Reply, Script, Synthetic, SyntheticJob};
use codeswarm::protocol::MicroUsd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Ran, Sandbox, Story};

/// A whole answer to `file PATH`.
pub(super) fn file(path: &str) -> String {
    format!("<file path=\"{path}\" id=\"{{{{id}}}}\">\nNAME = \"{path}\"\n</file-{{{{id}}}}>\n")
}

/// Replies that come before the right ones, by request key.
pub(super) type Wrong = HashMap<String, Vec<Reply>>;

/// The answers to every request of `job`: first the wrong ones of a key, then the right one unless the key is `hopeless`.
pub(super) fn script(job: &SyntheticJob, mut wrong: Wrong, hopeless: bool) -> Script {
    let mut script = Script::new();
    let mut answer = |key: String, right: String| {
        let faults = wrong.remove(&key).unwrap_or_default();
        let stays_wrong = hopeless && !faults.is_empty();
        for reply in faults {
            script.push(&key, reply);
        }
        if !stays_wrong {
            script.push(&key, right);
        }
    };
    answer("plan".into(), serde_json::to_string(&job.plan).unwrap());
    for (feature, plan) in job.plan.features.iter().zip(&job.feature_plans) {
        answer(format!("feature-plan {}", feature.id), serde_json::to_string(plan).unwrap());
    }
    for task in &job.tasks {
        answer(format!("file {}", task.path), file(&task.path));
    }
    assert!(wrong.is_empty(), "no such request: {:?}", wrong.keys());
    script
}

/// `features` × `files`, every file on its own.
pub(super) fn job(features: usize, files: usize) -> SyntheticJob {
    Synthetic::new(features, files, 7).build().unwrap()
}

/// A scripted provider with a tap in front of it.
pub(super) struct Provider {
    server: FakeServer,
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Provider {
    pub(super) async fn start(script: Script) -> Self {
        let server = FakeServer::start(script, FakeOptions::default()).await.unwrap();
        let target = server.base_url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(tap(client, target.clone(), Arc::clone(&all)));
            }
        });
        Self { server, address, heard }
    }

    pub(super) fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that reached the server.
    pub(super) fn requests(&self) -> u64 {
        self.server.requests()
    }

    pub(super) fn billed(&self) -> MicroUsd {
        self.server.bill().cost_micros
    }

    pub(super) fn calls_of(&self, key: &str) -> u64 {
        self.server.bill().calls_of(key)
    }

    /// The prompts (all texts of the messages) of the requests with this key.
    pub(super) fn prompts(&self, key: &str) -> Vec<String> {
        let line = format!("\nRequest: {key}");
        let bodies = self.heard.lock().unwrap().iter().flat_map(|bytes| bodies(bytes)).collect::<Vec<_>>();
        let prompts = bodies.iter().map(|body| texts(&body["messages"]));
        prompts.filter(|text| text.trim_end().split(" (id ").next().unwrap().ends_with(&line)).collect()
    }
}

/// Copies both ways and keeps what the client says.
async fn tap(client: TcpStream, target: String, all: Arc<Mutex<Vec<Vec<u8>>>>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let index = {
        let mut all = all.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            all.lock().unwrap()[index].extend_from_slice(&buffer[..read]);
            if to_server.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    let down = async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    // Whichever side ends first ends the connection, as without a tap.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// The JSON bodies of the requests in a client's half of a connection.
fn bodies(mut bytes: &[u8]) -> Vec<serde_json::Value> {
    let mut found = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap().trim().parse::<usize>();
        let body = &bytes[end + 4..];
        let Some(body) = body.get(..length.unwrap()) else { break };
        found.push(serde_json::from_slice(body).unwrap());
        bytes = &bytes[end + 4 + body.len()..];
    }
    found
}

fn texts(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) => items.iter().map(texts).collect::<Vec<_>>().join("\n"),
        serde_json::Value::Object(fields) => match fields.get("text") {
            Some(serde_json::Value::String(text)) => text.clone(),
            _ => fields.get("content").map(texts).unwrap_or_default(),
        },
        serde_json::Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

/// A run against a provider, and all there is to know about it afterwards.
pub(super) struct Bout {
    pub(super) sandbox: Sandbox,
    pub(super) provider: Provider,
    pub(super) ran: Ran,
    pub(super) story: Story,
}

impl Bout {
    /// Runs a job whose replies are `script`; money must be sound whatever happens.
    pub(super) async fn of(script: Script, environment: &[(&str, &str)]) -> Self {
        let (sandbox, provider) = (Sandbox::new(), Provider::start(script).await);
        let url = provider.base_url();
        let ran = sandbox.run_job(&[], &[environment, &[("ANTHROPIC_BASE_URL", &url)]].concat()).await;
        let story = sandbox.story().await;
        story.assert_sound_money(provider.billed());
        Self { sandbox, provider, ran, story }
    }

    /// The output holds exactly the files of `job` except those that `missing` names.
    #[track_caller]
    pub(super) fn assert_files(&self, job: &SyntheticJob, missing: &[&str]) {
        let output = self.sandbox.output();
        let expected = job.tasks.iter().map(|task| task.path.as_str()).filter(|path| !missing.contains(path));
        let found: Vec<_> = output.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(found, expected.clone().collect::<Vec<_>>());
        for path in expected {
            assert_eq!(output[std::path::Path::new(path)], format!("NAME = \"{path}\"\n").as_bytes(), "{path}");
        }
    }

    /// `task` failed once for every one of `reasons`, in this order, and each reason that is the model's fault was told
    /// to it with the next attempt.
    #[track_caller]
    pub(super) fn assert_told(&self, task: &str, key: &str, reasons: &[(&str, &str)]) {
        let failures = self.story.failures(task);
        assert_eq!(failures.len(), reasons.len(), "{task}: {failures:?}");
        for ((code, message, cost), (wanted, part)) in failures.iter().zip(reasons) {
            assert!(code == wanted && message.contains(part), "{task}: {code} {message:?} is not {wanted} {part:?}");
            assert!(*cost > MicroUsd::ZERO, "{task}: a refused reply costs as much as any other");
        }
        let prompts = self.provider.prompts(key);
        assert_eq!(prompts.len() as u64, self.provider.calls_of(key), "{key}");
        let told = prompts.iter().filter(|prompt| prompt.contains("## Your last answer was refused")).count();
        let own = failures.iter().filter(|(code, ..)| !code.starts_with("CS-LLM-"));
        assert_eq!(told, own.clone().count().min(prompts.len() - 1), "{key}");
        for (_, message, _) in own.take(told) {
            let quoted = message.split(['<', '>']).next().unwrap();
            assert!(prompts.iter().any(|prompt| prompt.contains(quoted)), "{key}: {message:?} was not told");
        }
    }
}
