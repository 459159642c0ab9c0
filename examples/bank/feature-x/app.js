const actions = ['transfer (next day)', 'transfer (instant)']
document.getElementById('actions').textContent = actions.join(', ')
