//! Rows of task lists: short by default, with the fields that `fields=` asks for.

use bytes::Bytes;
use triarch_table::records::task::Task;
use triarch_table::{ListPage, Table, TaskId};

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::page::Page;
use crate::server::protocol::problem::Problem;
use crate::server::protocol::query::Query;
use crate::server::routes::task_view::{Fields, short_error, task_to_wire};

/// Fields that every row has. `fields=` accepts them too.
const ROW_FIELDS: [&str; 25] = [
    "id",
    "job",
    "key",
    "kind",
    "queue",
    "state",
    "priority",
    "attempt",
    "max_attempts",
    "failures",
    "max_losses",
    "losses",
    "worker",
    "timeout_ms",
    "run_at",
    "expires_at",
    "requires",
    "tags",
    "unique_key",
    "concurrency_key",
    "concurrency_limit",
    "progress",
    "note",
    "created_at",
    "started_at",
];
const FINISHED_AT: &str = "finished_at";

/// Reads `fields`: a list of names, or `all`. Default: none of those that rows leave out.
pub fn fields(query: &Query) -> Result<Fields, Problem> {
    let mut fields = Fields::ROW;
    let Some(text) = query.text("fields") else {
        return Ok(fields);
    };
    for name in text.split(',').map(str::trim) {
        match name {
            "all" => fields = Fields::ALL,
            "payload" => fields.payload = true,
            "result" => fields.result = true,
            "error" => fields.error = true,
            "attempts" => fields.attempts = true,
            "after" => fields.after = true,
            known if known == FINISHED_AT || ROW_FIELDS.contains(&known) => {}
            _ => {
                return Err(Problem::invalid(
                    "fields",
                    format!(
                        "there is no field {name:?}; give names of a task's fields with commas, or all. Rows leave out payload, \
                         result, attempts and after, and shorten error, unless they are named"
                    ),
                ));
            }
        }
    }
    Ok(fields)
}

/// Writes a page of tasks, as many rows as fit.
pub fn page(
    app: &App,
    table: &Table,
    found: ListPage<'_, Task, TaskId>,
    fields: Fields,
    count: Option<u64>,
) -> Result<Vec<u8>, HandlerError> {
    let mut page = Page::new("tasks").with_count(count);
    let mut last: Option<TaskId> = None;
    for task in found.items {
        // The whole error is read to shorten it.
        let read_bytes = match fields.error {
            true => 0,
            false => task.error().map_or(0, Bytes::len),
        };
        if !page.read(read_bytes) || !page.push_json(row(app, table, task, fields)?) {
            return Ok(page.finish(last.map(|last| last.to_string()).as_deref()));
        }
        last = Some(task.id);
    }
    Ok(page.finish(found.next.map(|next| next.to_string()).as_deref()))
}

fn row(app: &App, table: &Table, task: &Task, fields: Fields) -> Result<Vec<u8>, HandlerError> {
    let mut shown = task_to_wire(app, table, task, fields);
    if !fields.error {
        shown.error = shown.error.as_deref().and_then(short_error);
    }
    let mut json = serde_json::to_vec(&shown).map_err(|error| {
        HandlerError::OutcomeUnknown(format!("the answer cannot be written: {error}"))
    })?;
    if !fields.result {
        remove(&mut json, br#","result":null"#);
    }
    Ok(json)
}

/// Removes the first occurrence of a member from a JSON object. A string cannot contain it, because its quotes would be
/// escaped.
fn remove(json: &mut Vec<u8>, member: &[u8]) {
    if let Some(at) = memchr::memmem::find(json, member) {
        json.drain(at..at + member.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_or_all() {
        let read = |text: &str| {
            let query = format!("fields={text}");
            fields(&Query::parse(Some(&query), &["fields"]).expect("a query")).ok()
        };
        assert_eq!(read("id,state"), Some(Fields::ROW));
        assert_eq!(read("all"), Some(Fields::ALL));
        let result = read("result,%20error").expect("known");
        assert!(result.result && result.error && !result.payload);
        assert_eq!(read("resul"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn only_the_member_itself_is_removed() {
        let mut json =
            br#"{"id":",\"result\":null","result":null,"error":{"a":1,"result":null}}"#.to_vec();
        remove(&mut json, br#","result":null"#);
        assert_eq!(
            String::from_utf8_lossy(&json),
            r#"{"id":",\"result\":null","error":{"a":1,"result":null}}"#
        );
    }
}
