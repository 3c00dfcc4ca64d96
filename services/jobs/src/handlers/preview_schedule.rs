//! When an expression would be due.

use chrono::{DateTime, Utc};
use kernel::{Context, FieldError, Result};
use subjects::jobs::v1::{PreviewScheduleReply, PreviewScheduleRequest};

use crate::domain::Timing;
use crate::error::JobsError;

/// Times that are shown where it is not said how many, and at most.
const COUNT_DEFAULT: u32 = 10;
const COUNT_MAX: u32 = 1_000;

pub(crate) fn preview_schedule(cx: &Context, request: &PreviewScheduleRequest) -> Result<PreviewScheduleReply> {
    let mut faults = Vec::new();
    let after = match request.after.map(DateTime::<Utc>::try_from) {
        None => cx.now(),
        Some(Ok(after)) if (0..=YEARS_SECONDS_MAX).contains(&after.timestamp()) => after,
        Some(_) => {
            faults.push(FieldError::new("/after", "out_of_range", "must be from 1970 to 2200"));
            cx.now()
        }
    };
    if request.count > COUNT_MAX {
        faults.push(FieldError::new("/count", "out_of_range", format!("must be at most {COUNT_MAX}")));
    }
    let timing = Timing::parse_new(&request.cron, &request.time_zone, after).map_err(|more| faults.extend(more)).ok();
    let Some(timing) = timing.filter(|_| faults.is_empty()) else { return Err(JobsError::Invalid(faults).into()) };
    let count = if request.count == 0 { COUNT_DEFAULT } else { request.count };
    Ok(PreviewScheduleReply { items: timing.after(after).take(count as usize).map(Into::into).collect() })
}

/// 2200 in seconds since 1970.
const YEARS_SECONDS_MAX: i64 = 7_258_118_400;
