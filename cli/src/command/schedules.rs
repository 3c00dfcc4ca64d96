//! `trunkline jobs schedules`: jobs at the times of cron expressions, through the gateway.

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::api::Session;
use super::jobs::{One, filters, show_job, show_list, text, watch};
use super::options::Data;
use super::output::{print, table};

const SCHEDULES: &str = "/api/v1/schedules";

/// Schedules that are looked through for a name; there are never more.
const SCHEDULES_MAX: usize = 100_000;

/// Times that are shown of a schedule that was just made or changed.
const SHOWN: u32 = 3;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them by name, with when each is due next
    List(List),
    /// Show one, with its next times
    Show(Which),
    /// Submit a job at the times of a cron expression from now on
    Create(Create),
    /// Change what is given of one; what is empty or 0 becomes the default again
    Update(Update),
    /// Delete one
    Delete(Which),
    /// Submit none of its jobs until it is resumed
    Pause(Which),
    /// Let it go on; what it would have submitted meanwhile is not caught up
    Resume(Which),
    /// Submit its job now, beside its times, and print the job's id
    RunNow(RunNow),
    /// Show when an expression would be due
    Preview(Preview),
}

#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    data: Data,
    /// Only those that submit to this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// One JSON object a line, with every field
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Which {
    #[command(flatten)]
    data: Data,
    /// Its id or its name
    schedule: String,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What may be left out when a schedule is made, and changed of one.
#[derive(Args, Debug)]
struct Terms {
    /// An IANA time zone, for example Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// While a job of it has not ended: submit another, pass the time over, or submit one when it has [default: ALLOW]
    #[arg(long, ignore_case = true, value_parser = ["ALLOW", "SKIP", "QUEUE_ONE"])]
    overlap: Option<String>,
    /// Of the times through which the server slept: none, the last, or each [default: LAST]
    #[arg(long, ignore_case = true, value_parser = ["SKIP", "LAST", "ALL"])]
    catch_up: Option<String>,
    /// With ALL, so many at most [default: 100]
    #[arg(long, value_name = "N")]
    catch_up_max: Option<u32>,
    /// Each job comes up to so much later than due, by chance [default: 0]
    #[arg(long, value_name = "MS")]
    jitter_ms: Option<u32>,
    /// How often each job is tried [default: as its queue has it]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// How long an attempt may take [default: as its queue has it]
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct Create {
    #[command(flatten)]
    data: Data,
    /// Its name, no other schedule's
    name: String,
    /// Five fields (minute, hour, day, month, day of the week) or six, the first of them seconds
    cron: String,
    queue: String,
    kind: String,
    /// The job's arguments, JSON
    #[arg(default_value = "{}")]
    args: String,
    #[command(flatten)]
    terms: Terms,
    /// Begins paused
    #[arg(long)]
    paused: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Update {
    #[command(flatten)]
    which: Which,
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Another expression; times of the past do not count for it
    #[arg(long)]
    cron: Option<String>,
    #[arg(long)]
    queue: Option<String>,
    #[arg(long)]
    kind: Option<String>,
    /// The job's arguments, JSON
    #[arg(long)]
    args: Option<String>,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Args, Debug)]
pub(super) struct RunNow {
    #[command(flatten)]
    which: Which,
    /// Wait until the job has ended, and show how it goes
    #[arg(long)]
    watch: bool,
}

#[derive(Args, Debug)]
pub(super) struct Preview {
    #[command(flatten)]
    data: Data,
    /// Five fields (minute, hour, day, month, day of the week) or six, the first of them seconds
    cron: String,
    /// An IANA time zone, for example Europe/Berlin
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
    /// How many times, up to 1,000
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: u32,
    /// Times behind this one, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    after: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: Command) -> Result<()> {
    match command {
        Command::List(arguments) => list(arguments).await,
        Command::Show(which) => show(&which).await,
        Command::Create(arguments) => create(arguments).await,
        Command::Update(arguments) => update(arguments).await,
        Command::Delete(which) => delete(&which).await,
        Command::Pause(which) => hold(&which, "pause").await,
        Command::Resume(which) => hold(&which, "resume").await,
        Command::RunNow(arguments) => run_now(arguments).await,
        Command::Preview(arguments) => preview(&arguments).await,
    }
}

async fn list(list: List) -> Result<()> {
    let session = Session::open(&list.data).await?;
    let (mut schedules, are_more) = session.pages(SCHEDULES, &filters([("queue", list.queue)]), list.limit).await?;
    if !list.json {
        for schedule in &mut schedules {
            if schedule["paused"] == true {
                schedule["nextAt"] = "paused".into();
            }
        }
    }
    let columns = ["name", "cron", "timeZone", "queue", "kind", "nextAt", "lastAt", "lastOutcome", "id"];
    show_list(&schedules, &columns, are_more, list.limit, list.json)
}

async fn show(which: &Which) -> Result<()> {
    let session = Session::open(&which.data).await?;
    let path = path(&session, &which.schedule).await?;
    let schedule = session.get(&path, &[]).await?;
    show_schedule(&session, &schedule, which.json).await
}

async fn create(create: Create) -> Result<()> {
    let mut schedule = json!({
        "name": create.name, "cron": create.cron, "queue": create.queue, "kind": create.kind,
        "args": parse(&create.args)?, "paused": create.paused,
    });
    create.terms.put_into(&mut schedule);
    let session = Session::open(&create.data).await?;
    let schedule = session.send(Method::POST, SCHEDULES, &[], Some(&schedule)).await?;
    show_schedule(&session, &schedule, create.json).await
}

async fn update(update: Update) -> Result<()> {
    let mut change = json!({});
    let texts = [("name", update.name), ("cron", update.cron), ("queue", update.queue), ("kind", update.kind)];
    for (field, value) in texts {
        if let Some(value) = value {
            change[field] = value.into();
        }
    }
    if let Some(args) = update.args {
        change["args"] = parse(&args)?;
    }
    update.terms.put_into(&mut change);
    let session = Session::open(&update.which.data).await?;
    let path = path(&session, &update.which.schedule).await?;
    let schedule = session.send(Method::PATCH, &path, &[], Some(&change)).await?;
    show_schedule(&session, &schedule, update.which.json).await
}

async fn delete(which: &Which) -> Result<()> {
    let session = Session::open(&which.data).await?;
    let path = path(&session, &which.schedule).await?;
    session.delete(&path).await?;
    print(if which.json { "{}" } else { "deleted" })
}

async fn hold(which: &Which, verb: &str) -> Result<()> {
    let session = Session::open(&which.data).await?;
    let path = path(&session, &which.schedule).await?;
    let schedule = session.send(Method::POST, &format!("{path}/{verb}"), &[], Some(&json!({}))).await?;
    show_schedule(&session, &schedule, which.json).await
}

async fn run_now(run: RunNow) -> Result<()> {
    let Which { data, schedule, json } = run.which;
    let session = Session::open(&data).await?;
    let path = path(&session, &schedule).await?;
    let schedule: Value = session.get(&path, &[]).await?;
    let reply: Value = session.send(Method::POST, &format!("{path}/run-now"), &[], Some(&json!({}))).await?;
    let id = reply["jobId"].as_str().context("the answer has no jobId")?.to_owned();
    if run.watch {
        let of = |field: &str| schedule[field].as_str().map(ToOwned::to_owned);
        return watch(&One { data, id, queue: of("queue"), kind: of("kind"), json }).await;
    }
    print(&if json { reply.to_string() } else { id })
}

async fn preview(preview: &Preview) -> Result<()> {
    let mut request = json!({ "cron": preview.cron, "timeZone": preview.time_zone, "count": preview.count });
    if let Some(after) = &preview.after {
        request["after"] = after.clone().into();
    }
    let session = Session::open(&preview.data).await?;
    let reply: Value = session.send(Method::POST, &format!("{SCHEDULES}/preview"), &[], Some(&request)).await?;
    print(&if preview.json { reply.to_string() } else { times(&reply, &preview.time_zone) })
}

impl Terms {
    fn put_into(self, schedule: &mut Value) {
        let word = |word: Option<String>| word.map(|word| word.to_ascii_uppercase().into());
        for (field, value) in [
            ("timeZone", self.time_zone.map(Value::from)),
            ("overlap", word(self.overlap)),
            ("catchUp", word(self.catch_up)),
            ("catchUpMax", self.catch_up_max.map(Value::from)),
            ("jitterMs", self.jitter_ms.map(Value::from)),
            ("maxAttempts", self.max_attempts.map(Value::from)),
            ("timeoutMs", self.timeout_ms.map(Value::from)),
        ] {
            if let Some(value) = value {
                schedule[field] = value;
            }
        }
    }
}

fn parse(args: &str) -> Result<Value> {
    serde_json::from_str(args).context("the arguments are no JSON")
}

/// Where the schedule of this id or name is.
async fn path(session: &Session, which: &str) -> Result<String> {
    let (schedules, _) = session.pages(SCHEDULES, &[], SCHEDULES_MAX).await?;
    let is = |field: &str| schedules.iter().find(|schedule| schedule[field] == which);
    let found = is("id").or_else(|| is("name")).and_then(|schedule| schedule["id"].as_str());
    let id = found.with_context(|| format!("no schedule has the id or name {which:?}"))?;
    Ok(format!("{SCHEDULES}/{id}"))
}

/// Its fields, and the times at which it is due next.
async fn show_schedule(session: &Session, schedule: &Value, json: bool) -> Result<()> {
    show_job(schedule, json)?;
    if json || schedule["paused"] == true {
        return Ok(());
    }
    let request = json!({ "cron": schedule["cron"], "timeZone": schedule["timeZone"], "count": SHOWN });
    let reply: Value = session.send(Method::POST, &format!("{SCHEDULES}/preview"), &[], Some(&request)).await?;
    print(&format!("\ndue\n{}", times(&reply, schedule["timeZone"].as_str().unwrap_or_default())))
}

/// Each time as the clocks of its zone show it, and in UTC.
fn times(reply: &Value, zone: &str) -> String {
    let zone: Tz = zone.parse().unwrap_or(Tz::UTC);
    let items = reply["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |item: &Value| {
        let time = item.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
        let shown = time.map(|time| time.with_timezone(&zone).format("%a %Y-%m-%d %H:%M:%S %Z").to_string());
        vec![shown.unwrap_or_default(), text(item)]
    };
    if items.is_empty() { "none".to_owned() } else { table(&items.iter().map(row).collect::<Vec<_>>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_as_clocks_show_it_there() {
        let reply = json!({ "items": ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"] });
        let shown =
            "Sun 2026-10-25 02:30:00 CEST  2026-10-25T00:30:00Z\nMon 2026-10-26 02:30:00 CET   2026-10-26T01:30:00Z";
        assert_eq!(times(&reply, "Europe/Berlin"), shown);
        assert_eq!(times(&json!({ "items": [] }), "UTC"), "none");
    }
}
