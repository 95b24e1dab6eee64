//! `corelane group reset-offsets`: lets a group go on from elsewhere.
//!
//! Nothing is changed without `--execute`. The group must have no members: a
//! member goes by the offsets it has in mind and would commit them again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::super::client::{Client, ClientError};
use super::super::{CliError, Connect, plural};
use super::coordinator::Coordinator;
use super::describe::look_up;
use super::offsets::{self, EARLIEST, LATEST, NOBODY, Place, at_time, committed};
use super::table;

/// Arguments of `group reset-offsets`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("scope").required(true))]
#[command(group = ArgGroup::new("target").required(true))]
pub struct ResetArgs {
    /// The group. It need not exist: it does when it has an offset.
    group: String,
    /// A topic, or some of its partitions (`t:0,2`); may be repeated.
    #[arg(long, group = "scope", value_name = "TOPIC[:PARTITIONS]", value_parser = scope)]
    topic: Vec<Scope>,
    /// All partitions that the group has committed an offset for.
    #[arg(long, group = "scope")]
    all_topics: bool,
    /// To the first record there is.
    #[arg(long, group = "target")]
    to_earliest: bool,
    /// To the end.
    #[arg(long, group = "target")]
    to_latest: bool,
    /// To the first record from a time on: 2026-01-31T12:00:00.000Z, shorter, or
    /// milliseconds since 1970.
    #[arg(long, group = "target", value_name = "TIME", value_parser = time)]
    to_time: Option<i64>,
    /// To this offset, or the nearest one there is.
    #[arg(long, group = "target", value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// By so many records from where the group is; negative goes back.
    #[arg(long, group = "target", value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// Do it, instead of showing what would be done.
    #[arg(long)]
    execute: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// A topic, or partitions of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    topic: String,
    /// None for all.
    partitions: Option<Vec<i32>>,
}

fn scope(text: &str) -> Result<Scope, String> {
    let Some((topic, numbers)) = text.split_once(':') else {
        return Ok(Scope { topic: text.to_owned(), partitions: None });
    };
    let number = |text: &str| text.parse().ok().filter(|number| *number >= 0);
    let numbers: Option<Vec<i32>> = numbers.split(',').map(number).collect();
    let numbers = numbers.ok_or("partitions are numbers with commas between them")?;
    Ok(Scope { topic: topic.to_owned(), partitions: Some(numbers) })
}

/// A time as milliseconds since 1970: those, or a date in UTC with as much of a
/// time of day as is wanted.
fn time(text: &str) -> Result<i64, String> {
    if let Ok(ms) = text.parse::<u64>() {
        return i64::try_from(ms).map_err(|_| "must be a time in this age".to_owned());
    }
    date(text).ok_or_else(|| "must be like 2026-01-31T12:00:00.000Z, or milliseconds".to_owned())
}

fn date(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (day, clock) = text.split_once('T').unwrap_or((text, "00:00"));
    // Digits alone: numbers parse with a sign, too.
    let number = |text: &str, digits: usize| {
        let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| text.parse::<i64>().ok()).flatten()
    };
    let mut parts = day.splitn(3, '-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(parts.next()?, 2).filter(|day| (1..=days).contains(day))?;
    let mut parts = clock.splitn(3, ':');
    let hour = number(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = number(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let (second, ms) = match parts.next() {
        None => (0, 0),
        Some(seconds) => {
            let (second, ms) = seconds.split_once('.').unwrap_or((seconds, "000"));
            (number(second, 2).filter(|second| *second < 60)?, number(ms, 3)?)
        }
    };
    // Days before a year that begins with March (Howard Hinnant's days_from_civil).
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let before =
        365 * shifted + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400);
    let days = before + day_of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + ms)
}

/// Where a partition is to go on.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    place: Place,
    from: Option<i64>,
    to: i64,
}

/// Resets offsets, or shows what that would do.
pub fn run(args: &ResetArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&args.connect.bootstrap)?;
    let mut coordinator = Coordinator::of(&args.group);
    if let Some(group) = look_up(&mut client, &mut coordinator)?
        && group.group_state.as_str() != "Empty"
    {
        return Err(CliError::Failed(format!(
            "group {} is {} with {}; stop them first",
            args.group,
            &*group.group_state,
            plural(group.members.len(), "member")
        )));
    }
    let rows = plan(&mut client, &mut coordinator, args)?;
    if args.execute && !rows.is_empty() {
        let offsets: BTreeMap<Place, i64> =
            rows.iter().map(|row| (row.place.clone(), row.to)).collect();
        let code = offsets::commit(&mut client, &mut coordinator, NOBODY, &offsets)?;
        if code != 0 {
            let what = format!("cannot reset the offsets of group {}", args.group);
            return Err(ClientError::refused(what, code, None).into());
        }
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    if args.json {
        let row = |row: &Row| {
            let (topic, partition) = &row.place;
            json!({ "topic": topic, "partition": partition, "from": row.from, "to": row.to })
        };
        let rows: Vec<Value> = rows.iter().map(row).collect();
        let group = json!({ "group": args.group, "executed": args.execute, "partitions": rows });
        writeln!(out, "{group}")?;
    } else {
        write!(out, "{}", text(&rows))?;
        if !args.execute {
            out.flush()?;
            eprintln!("nothing is changed; add --execute to do this");
        }
    }
    out.flush()?;
    Ok(())
}

fn text(rows: &[Row]) -> String {
    let head = ["topic", "partition", "from", "to"].map(str::to_owned).to_vec();
    let cells = rows.iter().map(|row| {
        let from = row.from.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        vec![row.place.0.clone(), row.place.1.to_string(), from, row.to.to_string()]
    });
    table(&std::iter::once(head).chain(cells).collect::<Vec<_>>())
}

fn plan(
    client: &mut Client,
    coordinator: &mut Coordinator,
    args: &ResetArgs,
) -> Result<Vec<Row>, CliError> {
    let committed: BTreeMap<Place, i64> = committed(client, coordinator)?
        .into_iter()
        .map(|(place, row)| (place, row.committed_offset))
        .collect();
    let places = if args.all_topics {
        if committed.is_empty() {
            let group = &args.group;
            return Err(CliError::Failed(format!("group {group} has committed no offsets")));
        }
        committed.keys().cloned().collect()
    } else {
        named(client, &args.topic)?
    };
    let first = at_time(client, &places, EARLIEST)?;
    let end = at_time(client, &places, LATEST)?;
    let timed = match args.to_time {
        Some(timestamp) => at_time(client, &places, timestamp)?,
        None => BTreeMap::new(),
    };
    let mut rows = vec![];
    for place in places {
        let (Some(first), Some(end)) = (first.get(&place), end.get(&place)) else {
            let (topic, partition) = place;
            eprintln!("{topic}-{partition} does not exist any more and stays as it is");
            continue;
        };
        let from = committed.get(&place).copied();
        let wanted = if args.to_earliest {
            *first
        } else if let Some(offset) = args.to_offset {
            offset
        } else if let Some(by) = args.shift_by {
            let from = from.ok_or_else(|| {
                let (topic, partition) = &place;
                CliError::Failed(format!(
                    "group {} has committed no offset of {topic}-{partition} to go on from",
                    args.group
                ))
            })?;
            from.saturating_add(by)
        } else {
            // At a time that nothing is as late as, and with --to-latest: the end.
            timed.get(&place).copied().filter(|offset| *offset >= 0).unwrap_or(*end)
        };
        rows.push(Row { place, from, to: wanted.clamp(*first, *end) });
    }
    Ok(rows)
}

/// The partitions that are named, which have to exist.
fn named(client: &mut Client, scopes: &[Scope]) -> Result<BTreeSet<Place>, CliError> {
    let mut places = BTreeSet::new();
    for Scope { topic, partitions } in scopes {
        let all = offsets::partitions(client, topic)?;
        let Some(partitions) = partitions else {
            places.extend(all);
            continue;
        };
        for partition in partitions {
            let place = (topic.clone(), *partition);
            if !all.contains(&place) {
                return Err(CliError::Usage(format!(
                    "--topic {topic}:{partition}: it has {}, numbered from 0",
                    plural(all.len(), "partition")
                )));
            }
            places.insert(place);
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::super::super::shown::utc;
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        for ms in [
            0,
            951_782_400_000,
            951_868_799_999,
            951_868_800_000,
            1_709_251_199_999,
            1_735_689_600_000,
            4_107_542_400_000,
            253_402_300_799_999,
        ] {
            assert_eq!(time(&utc(ms)), Ok(ms), "{}", utc(ms));
        }
        assert_eq!(time("1970-01-02"), Ok(86_400_000));
        assert_eq!(time("1970-01-01T01:02"), Ok(3_720_000));
        assert_eq!(time("1970-01-01T00:00:03Z"), Ok(3_000));
        assert_eq!(time("1500"), Ok(1_500));
        for bad in
            ["", "-5", "now", "2026-02-29", "2026-13-01", "2026-1-1", "2026-01-01T24:00", "T"]
        {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn topics_and_partitions_of_them() {
        let all = Scope { topic: "t".to_owned(), partitions: None };
        assert_eq!(scope("t"), Ok(all.clone()));
        assert_eq!(scope("t:0,3"), Ok(Scope { partitions: Some(vec![0, 3]), ..all }));
        for bad in ["t:", "t:a", "t:-1", "t:1,", "t:1:2"] {
            assert!(scope(bad).is_err(), "{bad}");
        }
    }
}
