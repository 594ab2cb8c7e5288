//! Pages of lists: bounded in rows by the request, and in bytes here.

use serde::Serialize;

use super::handler_error::HandlerError;

/// Maximum size of a page in bytes, unless its first row alone is larger.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// JSON object of one list, written row by row.
#[derive(Debug)]
pub struct Page {
    body: Vec<u8>,
    rows: usize,
    /// Bytes that were read to make the rows.
    read_bytes: usize,
    /// Number of all items that match, if it was asked for.
    count: Option<u64>,
}

impl Page {
    /// Begins a page whose rows are in the field `rows`.
    pub fn new(rows: &str) -> Self {
        Self {
            body: format!("{{\"{rows}\":[").into_bytes(),
            rows: 0,
            read_bytes: 0,
            count: None,
        }
    }

    /// Sets the number of all items that match, for the field `count`.
    pub fn with_count(mut self, count: Option<u64>) -> Self {
        self.count = count;
        self
    }

    /// Adds a row. Returns `false` if the page is full without it; then the next page begins with it.
    pub fn push<T: Serialize>(&mut self, row: &T) -> Result<bool, HandlerError> {
        let before = self.body.len();
        if self.rows > 0 {
            self.body.push(b',');
        }
        serde_json::to_writer(&mut self.body, row).map_err(|error| {
            HandlerError::OutcomeUnknown(format!("the answer cannot be written: {error}"))
        })?;
        if self.rows > 0 && self.body.len() > PAGE_BYTES_MAX {
            self.body.truncate(before);
            return Ok(false);
        }
        self.rows += 1;
        Ok(true)
    }

    /// Adds a row that is JSON already. See [`Page::push`].
    pub fn push_json(&mut self, row: Vec<u8>) -> bool {
        if self.rows > 0 && self.body.len() + 1 + row.len() > PAGE_BYTES_MAX {
            return false;
        }
        if self.rows > 0 {
            self.body.push(b',');
        }
        self.body.extend_from_slice(&row);
        self.rows += 1;
        true
    }

    /// Adds to the bytes that were read to make rows shorter than their source. Returns `false` if the page has read enough.
    pub fn read(&mut self, bytes: usize) -> bool {
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        self.rows == 0 || self.read_bytes <= PAGE_BYTES_MAX
    }

    /// Ends the page, with the cursor of the next one.
    pub fn finish(mut self, next: Option<&str>) -> Vec<u8> {
        self.body.extend_from_slice(b"],\"next\":");
        let next = serde_json::Value::from(next).to_string();
        self.body.extend_from_slice(next.as_bytes());
        if let Some(count) = self.count {
            self.body
                .extend_from_slice(format!(",\"count\":{count}").as_bytes());
        }
        self.body.push(b'}');
        self.body
    }
}

/// Writes rows in their order, as many as fit. The cursor is that of the last row written, or `next` if all were.
pub fn write<T, W: Serialize>(
    rows: &str,
    items: impl IntoIterator<Item = T>,
    next: Option<String>,
    cursor: impl Fn(&T) -> String,
    row: impl Fn(&T) -> W,
) -> Result<Vec<u8>, HandlerError> {
    write_on(Page::new(rows), items, next, cursor, row)
}

/// Writes rows on this page. See [`write`].
pub fn write_on<T, W: Serialize>(
    mut page: Page,
    items: impl IntoIterator<Item = T>,
    next: Option<String>,
    cursor: impl Fn(&T) -> String,
    row: impl Fn(&T) -> W,
) -> Result<Vec<u8>, HandlerError> {
    let mut last = None;
    for item in items {
        if !page.push(&row(&item))? {
            return Ok(page.finish(last.as_deref()));
        }
        last = Some(cursor(&item));
    }
    Ok(page.finish(next.as_deref()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn page(sizes: &[usize], next: Option<&str>) -> (usize, Value) {
        let items = sizes.iter().copied().enumerate();
        let next = next.map(str::to_owned);
        let body = write(
            "rows",
            items,
            next,
            |(number, _)| number.to_string(),
            |(_, size)| "x".repeat(*size),
        );
        let body: Value = serde_json::from_slice(&body.expect("written")).expect("JSON");
        (
            body["rows"].as_array().expect("rows").len(),
            body["next"].clone(),
        )
    }

    #[test]
    fn a_page_ends_at_its_bound_of_bytes_with_the_cursor_of_its_last_row() {
        assert_eq!(page(&[], None), (0, Value::Null));
        assert_eq!(page(&[1, 2, 3], Some("c")), (3, Value::from("c")));
        let half = PAGE_BYTES_MAX / 2 - 100;
        assert_eq!(page(&[half, half, half], None), (2, Value::from("1")));
        // A row that is too large for any page is one by itself.
        let large = PAGE_BYTES_MAX * 2;
        assert_eq!(page(&[large, 1], None), (1, Value::from("0")));
        assert_eq!(page(&[1, large], None), (1, Value::from("0")));
    }
}
