//! What can go wrong in the words of jobs, and what the caller hears of it.

use kernel::{Error, FieldError};

/// A refusal by the rules of this service.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobsError {
    /// Values that are not what they should be; at least one.
    #[error("the request holds values that are not valid")]
    Invalid(Vec<FieldError>),
    /// No job has this id.
    #[error("there is no such job")]
    JobNotFound,
    /// No dead letter has this id.
    #[error("there is no such dead letter")]
    LetterNotFound,
    /// There is no such queue.
    #[error("there is no such queue")]
    QueueNotFound,
    /// More than one has it: pairs of queue and kind.
    #[error("jobs of several queues or kinds have this id")]
    Ambiguous(Vec<(String, String)>),
    /// The job has ended.
    #[error("the job has ended")]
    Ended(&'static str),
    /// The job is in a state in which it cannot be run again.
    #[error("the job cannot be run again now")]
    NotRetryable(&'static str),
    /// More wait for a time than may.
    #[error("too many jobs wait for a time")]
    TooManySchedules,
    /// No schedule has this id.
    #[error("there is no such schedule")]
    ScheduleNotFound,
    /// Another schedule has the name.
    #[error("another schedule has the name")]
    NameTaken,
    /// There are as many schedules as may be.
    #[error("there are too many schedules")]
    TooManyCrons,
    /// There are as many queues as may be.
    #[error("there are too many queues")]
    TooManyQueues,
    /// A service's contract declares the schedule.
    #[error("a service declares the schedule")]
    Declared(String),
}

impl From<JobsError> for Error {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Invalid(errors) => Self::invalid(errors),
            JobsError::JobNotFound => Self::new(404, "job_not_found", "There is no such job."),
            JobsError::LetterNotFound => Self::new(404, "dead_letter_not_found", "There is no such dead letter."),
            JobsError::QueueNotFound => Self::new(404, "queue_not_found", "There is no such queue."),
            JobsError::Ambiguous(places) => {
                let candidates = places
                    .iter()
                    .map(|(queue, kind)| FieldError::new("/queue", "candidate", format!("{queue}.{kind}")));
                Self::conflict("ambiguous_job", "Several jobs have this id; say which by queue and kind.")
                    .with_errors(candidates.collect())
            }
            JobsError::Ended(state) => Self::conflict("job_ended", format!("The job has ended: {state}.")),
            JobsError::NotRetryable(state) => {
                Self::conflict("not_retryable", format!("A job cannot be run again while it is {state}."))
            }
            JobsError::ScheduleNotFound => Self::new(404, "schedule_not_found", "There is no such schedule."),
            JobsError::NameTaken => Self::conflict("name_taken", "Another schedule has this name."),
            JobsError::TooManyCrons => {
                Self::conflict("too_many_schedules", "There are as many schedules as may be; delete one first.")
            }
            JobsError::TooManyQueues => {
                Self::conflict("too_many_queues", "There are as many queues as may be; use one that is there.")
            }
            JobsError::Declared(service) => Self::conflict(
                "declared_schedule",
                format!("The contract of {service} declares this schedule; it can be paused."),
            ),
            JobsError::TooManySchedules => {
                Self::new(503, "too_many_schedules", "Too many jobs wait for a time; submit it later.")
            }
        }
    }
}
