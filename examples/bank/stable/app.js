const actions = ['transfer (next day)']
document.getElementById('actions').textContent = actions.join(', ')
