//! One sample of everything that crosses a process boundary.
//!
//! Samples use every field; those of optional fields exist with and without. The exhaustive matches at the end make
//! the compiler ask for a sample of each new variant.

use codeswarm::clock::Timestamp;
use codeswarm::protocol::{
    AgentType, ArtifactRef, Command, CommandMessage, ContextFile, Contract, Envelope, Event, FailureKind, FeatureId,
    FeaturePlan, FeatureSpec, FilePlan, Identifier, InstanceId, JobId, JobOutcome, JobSettings, MessageKind, Metadata,
    MicroUsd, Origin, Overrun, Priority, Receipt, Recipient, RecordedEvent, StrategicPlan, TaskFailure, TaskId,
    TaskKind, TaskMessage, TaskOutcome, TaskResult, TaskSpec, TraceContext, Usage,
};

fn artifact(digit: char) -> ArtifactRef {
    ArtifactRef { sha256: digit.to_string().repeat(64), bytes: 1_234 }
}

fn feature() -> FeatureId {
    FeatureId::new("web").unwrap()
}

fn file_task() -> TaskId {
    TaskId::new("file/web/index").unwrap()
}

fn usage() -> Usage {
    Usage { input: 10, cache_write_5m: 20, cache_write_1h: 30, cache_read: 40, output: 50 }
}

fn receipt() -> Receipt {
    Receipt { artifact: artifact('a'), model: "claude-sonnet".into(), checks: vec!["one-file".into(), "utf-8".into()] }
}

fn failure(kind: FailureKind) -> TaskFailure {
    TaskFailure {
        kind,
        code: "CS-LLM-004".into(),
        message: "the provider is overloaded".into(),
        retry_after_ms: (kind == FailureKind::Parked).then_some(30_000),
        needed: (kind == FailureKind::Budget).then_some(MicroUsd(125_000)),
        failed_calls: if kind == FailureKind::Exhausted { 3 } else { 0 },
    }
}

pub(super) fn strategic_plan() -> StrategicPlan {
    let file = |path: &str| FilePlan { path: path.into(), purpose: "Serves.".into() };
    let spec = |id: FeatureId, files, depends_on, metadata| FeatureSpec {
        name: format!("The {id}"),
        id,
        description: "Does it.".into(),
        priority: Priority::High,
        files,
        depends_on,
        metadata,
    };
    let core = FeatureId::new("core").unwrap();
    let note = Metadata { key: "risk".into(), value: "low".into() };
    StrategicPlan {
        name: "todo".into(),
        summary: "A list of things to do.".into(),
        contract: Contract {
            language: "Python 3.12, no dependencies".into(),
            identifiers: vec![Identifier {
                kind: "symbol".into(),
                name: "core.add".into(),
                definition: "def add(text: str) -> int".into(),
                path: "core/list.py".into(),
            }],
            rules: vec!["Type hints everywhere.".into()],
        },
        features: vec![
            spec(core.clone(), vec![file("core/list.py")], vec![], vec![]),
            spec(feature(), vec![file("web/index.py"), file("web/page.py")], vec![core], vec![note]),
        ],
    }
}

pub(super) fn feature_plan() -> FeaturePlan {
    let task = |id: &str, needs: &[&str]| TaskSpec {
        id: id.into(),
        path: format!("web/{id}.py"),
        agent: "frontend".into(),
        title: format!("Write {id}"),
        instructions: "Write it well.".into(),
        depends_on: needs.iter().map(|&need| need.to_owned()).collect(),
        estimated_tokens: 800,
    };
    FeaturePlan { tasks: vec![task("index", &["page", "core/list.py"]), task("page", &[])] }
}

fn settings() -> JobSettings {
    JobSettings {
        output: "/home/me/todo".into(),
        git: true,
        approval: true,
        features: (5, 15),
        tasks_per_feature: (2, 8),
        max_attempts: 3,
        hold_back_percent: 0,
    }
}

fn envelope(payload: TaskMessage) -> Envelope<TaskMessage> {
    Envelope {
        id: "0198c2f1-a7b3-7d3c-8a1b-000000000001".into(),
        kind: MessageKind::Command,
        schema: 1,
        sender: InstanceId::new("coordinator-1").unwrap(),
        recipient: Recipient::Type(payload.agent.clone()),
        correlation_id: "0198c2f1a7b3-9d3c".into(),
        causation_id: None,
        priority: payload.priority,
        created_at: Timestamp(1_763_717_400_123),
        expires_at: None,
        trace: None,
        payload,
    }
}

pub(super) fn envelopes() -> Vec<(String, Envelope<TaskMessage>)> {
    let bare = TaskMessage {
        job: JobId::new("0198c2f1a7b3-9d3c").unwrap(),
        task: TaskId::plan(),
        attempt: 1,
        agent: AgentType::planner(),
        priority: Priority::Critical,
        kind: TaskKind::Plan { features: (5, 15), tasks: (2, 8) },
        proposal: artifact('b'),
        plan: None,
        title: String::new(),
        instructions: String::new(),
        dependencies: vec![],
        interfaces: vec![],
        feedback: None,
        estimated_tokens: 0,
        model: None,
        failed_calls: 0,
    };
    let feature_plan = TaskMessage {
        task: TaskId::feature_plan(&feature()),
        agent: AgentType::feature_coordinator(),
        priority: Priority::High,
        kind: TaskKind::FeaturePlan { feature: feature(), tasks: (2, 8) },
        plan: Some(artifact('c')),
        title: "The web".into(),
        ..bare.clone()
    };
    let file = TaskMessage {
        task: file_task(),
        attempt: 2,
        agent: AgentType::new("frontend").unwrap(),
        priority: Priority::Low,
        kind: TaskKind::File { feature: feature(), path: "web/index.py".into() },
        instructions: "Write it well.".into(),
        dependencies: vec![ContextFile { path: "web/page.py".into(), artifact: artifact('d') }],
        interfaces: vec![ContextFile { path: "core/list.py".into(), artifact: artifact('e') }],
        feedback: Some("the reply was cut off".into()),
        estimated_tokens: 800,
        ..feature_plan.clone()
    };
    let again = envelope(TaskMessage { failed_calls: 2, ..bare.clone() });
    let full = Envelope {
        recipient: Recipient::Agent(InstanceId::new("worker-frontend-1").unwrap()),
        causation_id: Some("0198c2f1-a7b3-7d3c-8a1b-000000000000".into()),
        expires_at: Some(Timestamp(1_763_717_430_123)),
        trace: Some(TraceContext { traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into() }),
        ..envelope(file)
    };
    let broadcast = Envelope { recipient: Recipient::Broadcast, priority: Priority::Normal, ..envelope(bare.clone()) };
    let samples = [
        ("plan", envelope(bare)),
        ("feature-plan", envelope(feature_plan)),
        ("file", full),
        ("broadcast", broadcast),
        ("again", again),
    ];
    samples.into_iter().map(|(name, envelope)| (format!("envelope-{name}"), envelope)).collect()
}

pub(super) fn results() -> Vec<(String, TaskResult)> {
    let result = |outcome| TaskResult {
        job: JobId::new("0198c2f1a7b3-9d3c").unwrap(),
        task: file_task(),
        attempt: 2,
        worker: InstanceId::new("worker-frontend-1").unwrap(),
        started_at: Timestamp(1_763_717_400_123),
        finished_at: Timestamp(1_763_717_409_456),
        usage: usage(),
        cost: MicroUsd(12_345),
        overrun: None,
        outcome,
    };
    let failed = |kind| result(TaskOutcome::Failed { failure: failure(kind) });
    let mut samples = vec![("result-succeeded".to_owned(), result(TaskOutcome::Succeeded { receipt: receipt() }))];
    let overrun = Some(Overrun { reserved: MicroUsd(10_000), charged: MicroUsd(12_345) });
    samples.push(("result-succeeded-over-its-bound".to_owned(), TaskResult { overrun, ..samples[0].1.clone() }));
    samples.extend(FAILURES.map(|kind| (format!("result-failed-{}", failure_name(kind)), failed(kind))));
    samples
}

pub(super) fn commands() -> Vec<(String, CommandMessage)> {
    let commands = [
        Command::Start,
        Command::Approve,
        Command::Cancel { reason: "changed my mind".into() },
        Command::Pause,
        Command::Resume,
        Command::RetryTask { task: file_task() },
        Command::BudgetChanged { limit: MicroUsd(7_500_000) },
    ];
    let message = |command| CommandMessage {
        request: "0198c2f1-a7b3-7d3c-8a1b-000000000002".into(),
        job: JobId::new("0198c2f1a7b3-9d3c").unwrap(),
        command,
    };
    commands.map(|command| (format!("command-{}", command_name(&command)), message(command))).into()
}

pub(super) fn events() -> Vec<(String, RecordedEvent)> {
    let submitted = |origin| Event::JobSubmitted {
        name: "todo".into(),
        proposal: artifact('b'),
        budget: MicroUsd(5_000_000),
        origin,
        settings: settings(),
    };
    let failed = |retry_at| Event::TaskFailed {
        task: file_task(),
        attempt: 2,
        failure: failure(FailureKind::Transient),
        cost: MicroUsd(12_345),
        usage: usage(),
        retry_at,
    };
    let committed = |complete, commit| Event::FeatureCommitted { feature: feature(), files: 2, complete, commit };
    let mut events = vec![
        submitted(Origin::Replay { path: "/home/me/replies.json".into() }),
        Event::TaskDispatched { task: file_task(), attempt: 2 },
        Event::TaskSucceeded {
            task: file_task(),
            attempt: 2,
            receipt: receipt(),
            cost: MicroUsd(12_345),
            usage: usage(),
            duration_ms: 9_333,
        },
        failed(Some(Timestamp(1_763_717_410_000))),
        Event::TaskDead { task: file_task(), reason: "the provider is overloaded".into() },
        Event::TaskSkipped { task: file_task(), because: TaskId::feature_plan(&feature()) },
        Event::TaskRevived { task: file_task() },
        Event::PlanAccepted { plan: strategic_plan(), artifact: artifact('c') },
        Event::FeaturePlanned { feature: feature(), plan: feature_plan() },
        Event::ApprovalRequested { estimate: MicroUsd(2_000_000) },
        Event::PlanApproved,
        committed(true, Some("8da91fce".repeat(5))),
        Event::BudgetWarning { spent: MicroUsd(4_000_000), limit: MicroUsd(5_000_000) },
        Event::BudgetChanged { limit: MicroUsd(7_500_000) },
        Event::JobPaused { reason: None },
        Event::BudgetOverrun { task: file_task(), attempt: 2, reserved: MicroUsd(20_000), charged: MicroUsd(30_000) },
        Event::JobResumed,
    ];
    events.extend(OUTCOMES.map(|outcome| Event::JobEnded { outcome, reason: "so it is".into() }));
    let mut samples: Vec<(String, Event)> = events.into_iter().map(|event| (event_name(&event), event)).collect();
    samples.push(("event-job-submitted-live".into(), submitted(Origin::Live)));
    let mut holding = submitted(Origin::Live);
    if let Event::JobSubmitted { settings, .. } = &mut holding {
        settings.hold_back_percent = 10;
    }
    samples.push(("event-job-submitted-holding-back".into(), holding));
    samples.push(("event-task-failed-for-good".into(), failed(None)));
    samples.push(("event-feature-committed-partly".into(), committed(false, None)));
    let asks = Event::JobPaused { reason: Some("80 % of the budget is spent".into()) };
    samples.push(("event-job-paused-to-ask".into(), asks));
    let record = |event| RecordedEvent { seq: 7, at: Timestamp(1_763_717_400_123), event };
    samples.into_iter().map(|(name, event)| (name, record(event))).collect()
}

const FAILURES: [FailureKind; 8] = [
    FailureKind::Rejected,
    FailureKind::Transient,
    FailureKind::Parked,
    FailureKind::Budget,
    FailureKind::Lost,
    FailureKind::Exhausted,
    FailureKind::Fatal,
    FailureKind::Cancelled,
];

const OUTCOMES: [JobOutcome; 5] = [
    JobOutcome::Completed,
    JobOutcome::CompletedWithWarnings,
    JobOutcome::BudgetExhausted,
    JobOutcome::Failed,
    JobOutcome::Cancelled,
];

fn failure_name(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Rejected => "rejected",
        FailureKind::Transient => "transient",
        FailureKind::Parked => "parked",
        FailureKind::Budget => "budget",
        FailureKind::Lost => "lost",
        FailureKind::Exhausted => "exhausted",
        FailureKind::Fatal => "fatal",
        FailureKind::Cancelled => "cancelled",
    }
}

fn outcome_name(outcome: JobOutcome) -> &'static str {
    match outcome {
        JobOutcome::Completed => "completed",
        JobOutcome::CompletedWithWarnings => "completed-with-warnings",
        JobOutcome::BudgetExhausted => "budget-exhausted",
        JobOutcome::Failed => "failed",
        JobOutcome::Cancelled => "cancelled",
    }
}

fn command_name(command: &Command) -> &'static str {
    match command {
        Command::Start => "start",
        Command::Approve => "approve",
        Command::Cancel { .. } => "cancel",
        Command::Pause => "pause",
        Command::Resume => "resume",
        Command::RetryTask { .. } => "retry-task",
        Command::BudgetChanged { .. } => "budget-changed",
    }
}

fn event_name(event: &Event) -> String {
    let name = match event {
        Event::JobSubmitted { .. } => "job-submitted",
        Event::TaskDispatched { .. } => "task-dispatched",
        Event::TaskSucceeded { .. } => "task-succeeded",
        Event::TaskFailed { .. } => "task-failed",
        Event::TaskDead { .. } => "task-dead",
        Event::TaskSkipped { .. } => "task-skipped",
        Event::TaskRevived { .. } => "task-revived",
        Event::PlanAccepted { .. } => "plan-accepted",
        Event::FeaturePlanned { .. } => "feature-planned",
        Event::ApprovalRequested { .. } => "approval-requested",
        Event::PlanApproved => "plan-approved",
        Event::FeatureCommitted { .. } => "feature-committed",
        Event::BudgetWarning { .. } => "budget-warning",
        Event::BudgetChanged { .. } => "budget-changed",
        Event::JobPaused { .. } => "job-paused",
        Event::BudgetOverrun { .. } => "budget-overrun",
        Event::JobResumed => "job-resumed",
        Event::JobEnded { outcome, .. } => return format!("event-job-ended-{}", outcome_name(*outcome)),
    };
    format!("event-{name}")
}
