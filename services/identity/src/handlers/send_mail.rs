//! A user is written to.

use kernel::Result;
use kernel::jobs::{Outcome, Run};
use subjects::identity::v1::{SendMail, send_mail};

use crate::Identity;
use crate::domain::{Notice, Purpose, User, UserId};
use crate::mail::{Letter, PostError};
use crate::storage;

/// Run again, it sends the same letter under the same Message-ID; in a folder it is the same file.
pub(crate) async fn send_mail(identity: &Identity, run: &Run) -> Outcome {
    let arguments: SendMail = match run.arguments() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let purpose = match arguments.purpose() {
        send_mail::Purpose::AccountCreated => Purpose::AccountCreated,
        send_mail::Purpose::RolesChanged => Purpose::RolesChanged,
        send_mail::Purpose::PasswordSet => Purpose::PasswordSet,
        send_mail::Purpose::PasswordChanged => Purpose::PasswordChanged,
        send_mail::Purpose::Unspecified => return Outcome::Undecodable("/purpose is missing".to_owned()),
    };
    let Ok(user_id) = UserId::parse(&arguments.user_id) else {
        return Outcome::Undecodable("/userId is no id".to_owned());
    };
    let (user, roles) = match find(identity, user_id).await {
        Ok(Some(found)) => found,
        Ok(None) => return Outcome::Done(r#"{"dropped":"there is no such user any more"}"#.to_owned()),
        Err(error) => return error.into(),
    };
    let notice = Notice::compose(purpose, &user.display_name, &user.email, &roles);
    let letter = Letter {
        id: &run.job.id,
        date: run.cx.now(),
        name: &user.display_name,
        address: &user.email,
        subject: notice.subject,
        text: notice.text,
    };
    match identity.post.send(letter).await {
        Ok(()) => Outcome::Done(String::new()),
        Err(PostError::Refused(why)) => Outcome::Permanent(why),
        Err(PostError::Away(why)) => Outcome::Failed(why),
    }
}

async fn find(identity: &Identity, user_id: UserId) -> Result<Option<(User, Vec<String>)>> {
    let mut connection = identity.database.pool().acquire().await?;
    let Some(user) = storage::find_user(&mut connection, user_id).await? else { return Ok(None) };
    let held = storage::find_holder(&mut connection, user_id).await?;
    Ok(Some((user, held.map(|held| held.roles.all()).unwrap_or_default())))
}
